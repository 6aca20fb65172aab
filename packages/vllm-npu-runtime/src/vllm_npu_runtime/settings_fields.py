"""Every setting of a model in a flat list: its key, its variable, and what it takes, in words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

PREFIX = "VLLM_NPU_"

FieldPath = tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        path: names of the fields that lead to it, as in ("token_bucket", "step").
        schema: its JSON schema, which pydantic makes from the declaration.
    """

    path: FieldPath
    schema: dict[str, Any]

    @property
    def key(self) -> str:
        """The path with dots, as in errors and docs."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + "_".join(self.path).upper()

    @property
    def choices(self) -> list[str]:
        """The values that it takes, if they can be listed."""
        return list(self.schema.get("enum", ()))

    @property
    def allowed(self) -> str:
        """What it takes, in words."""
        return _words(self.schema)

    @property
    def default(self) -> str:
        """Its default, as a user would write it."""
        value = self.schema.get("default")
        if isinstance(value, bool):
            return str(value).lower()
        return "none" if value in (None, [], {}) else str(value)

    @property
    def description(self) -> str:
        """What it does, for people."""
        return str(self.schema["description"])


@cache
def settings_of(model: type[BaseModel]) -> tuple[Setting, ...]:
    """The settings of a model, those of nested models included, in order."""
    return tuple(_walk(model, ()))


def _walk(model: type[BaseModel], above: FieldPath) -> list[Setting]:
    properties = model.model_json_schema()["properties"]
    found = []
    for name, field in model.model_fields.items():
        path = (*above, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _walk(field.annotation, path)
        else:
            found.append(Setting(path, properties[name]))
    return found


def _words(schema: dict[str, Any]) -> str:
    if "allowed" in schema:
        return str(schema["allowed"])
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if "anyOf" in schema:  # ours are all "something, or nothing"
        return _words(next(each for each in schema["anyOf"] if each["type"] != "null"))
    above = f" above {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else ""
    match schema["type"]:
        case "boolean":
            return "true or false"
        case "integer":
            return f"a whole number{above}"
        case "number":
            return f"a number{above}"
        case "array":
            return f"a list of numbers, each {_words(schema['items'])}"
        case "object":
            return "a JSON object"
        case _:
            return "text"

"""What is wrong with given settings, one line a problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings_fields import PREFIX, FieldPath, Setting, settings_of

_NOTHING = object()


def unknown_variables(environ: Iterable[str], known: Mapping[str, FieldPath]) -> list[str]:
    """A line for each variable that has our prefix and isn't ours.

    Args:
        environ: names of variables.
        known: ours, with the paths of their settings.
    """
    # Many belong to nested settings; the list of all would hide the hint.
    families = dict.fromkeys(
        name if len(path) == 1 else f"{PREFIX}{path[0].upper()}_*" for name, path in known.items()
    )
    problems = []
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            problems.append(f"Unknown variable '{name}'.{hint} Known: {', '.join(families)}.")
    return problems


def problems_of(
    error: ValidationError,
    model: type[BaseModel],
    values: Mapping[str, Any],
    environ: Mapping[str, str],
) -> list[str]:
    """A line for each setting that pydantic refused.

    Args:
        error: what pydantic raised.
        model: the model that it was validating.
        values: what the model was given.
        environ: tells which of the values came from a variable, to name that.
    """
    settings = {setting.path: setting for setting in settings_of(model)}
    refused: dict[FieldPath, list[ErrorDetails]] = {}
    for details in error.errors():
        refused.setdefault(_path(details, settings), []).append(details)
    return [
        _line(settings[path], several, values, environ)
        if path in settings
        else _misplaced(path, several[0], settings)
        for path, several in refused.items()
    ]


def _path(details: ErrorDetails, settings: Mapping[FieldPath, Setting]) -> FieldPath:
    # pydantic's location goes on into the value: which element of a list, which key.
    location = tuple(map(str, details["loc"]))
    inside = [path for path in settings if location[: len(path)] == path]
    return inside[0] if inside else location


def _misplaced(
    path: FieldPath, details: ErrorDetails, settings: Mapping[FieldPath, Setting]
) -> str:
    key = ".".join(path)
    below = [setting.path[-1] for setting in settings.values() if setting.path[:-1] == path]
    if below:
        return (
            f"{key}={details['input']!r}: must be an object with any of {', '.join(below)}, "
            f'as in {{"{key}": {{"{below[0]}": …}}}}.'
        )
    beside = {
        ".".join(each[: len(path)]) for each in settings if each[: len(path) - 1] == path[:-1]
    }
    return str(ConfigurationError.unknown("setting", key, beside))


def _line(
    setting: Setting,
    several: list[ErrorDetails],
    values: Mapping[str, Any],
    environ: Mapping[str, str],
) -> str:
    first = several[0]
    name = setting.variable if setting.variable in environ else setting.key
    if first["type"] == "literal_error":
        return str(ConfigurationError.unknown(name, str(first["input"]), setting.choices))
    given = environ.get(name, _given(values, setting.path))
    shown = name if given is _NOTHING else f"{name}={given!r}"
    if first["type"] == "value_error":
        return f"{shown}: {first['ctx']['error']}."
    elements = [repr(each["input"]) for each in several if len(each["loc"]) > len(setting.path)]
    culprits = f"; {', '.join(elements)} can't be used" if elements else ""
    return (
        f"{shown}: must be {setting.allowed}{culprits}. "
        f"Set that, or remove it for the default ({setting.default})."
    )


def _given(values: Mapping[str, Any], path: FieldPath) -> object:
    value: Any = values
    for name in path:
        value = value.get(name, _NOTHING) if isinstance(value, Mapping) else _NOTHING
    return value

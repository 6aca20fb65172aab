"""What a Mobilint model's `config.json` says that a session must know."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vllm_npu_runtime.artifact.names import CONFIG
from vllm_npu_runtime.errors import ConfigurationError

ARCHITECTURES = (
    "MobilintLlamaForCausalLM",
    "MobilintExaoneForCausalLM",
    "MobilintExaone4ForCausalLM",
    "MobilintQwen2ForCausalLM",
    "MobilintQwen3ForCausalLM",
)
MODES = ("auto", "single", "multi", "global4", "global8")
DEFAULT_CHUNK = 128
"""Tokens of a prompt in one run where the model doesn't say."""
BATCH_TOKENS = 128
"""Most tokens of one request in a run of several: the runtime's limit."""
OTHERWISE = "default"
"""The key for core modes that a mapping doesn't name."""

Value = TypeVar("Value")
Positive = Annotated[int, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


def _as_list(value: object) -> object:
    """A single number or name stands for a list of one."""
    return value if isinstance(value, list) or value is None else [value]


Boards = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_as_list)]
Names = Annotated[list[int | str], BeforeValidator(_as_list)]


class MobilintConfig(BaseModel):
    """Fields of `config.json`; each of the last ones may be keyed by core mode.

    Attributes:
        architectures: one of `ARCHITECTURES`.
        hidden_size: numbers in an embedding.
        vocab_size: logits of a token.
        core_mode: how cores work together, if nobody says otherwise.
        mxq_path: of the model file, within the directory.
        npu_prefill_chunk_size: tokens of a prompt in one run.
        max_batch_size: requests at once.
        target_cores: "cluster:core", or "board:cluster:core".
        target_clusters: number, or "board:cluster".
        dev_no: boards.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    architectures: tuple[str, ...]
    hidden_size: Positive
    vocab_size: Positive
    core_mode: str | None = None
    mxq_path: Text | dict[str, Text]
    npu_prefill_chunk_size: Positive | dict[str, Positive] | None = None
    max_batch_size: Positive | dict[str, Positive] | None = None
    target_cores: dict[str, Names] | Names | None = None
    target_clusters: dict[str, Names] | Names | None = None
    dev_no: dict[str, Boards] | Boards | None = None

    def chunk(self, mode: str) -> int:
        """Tokens of a prompt in one run."""
        return in_mode(self.npu_prefill_chunk_size, mode) or DEFAULT_CHUNK

    def most_requests(self, mode: str) -> int | None:
        """Requests at once; None: it doesn't say.

        Raises:
            ConfigurationError: it says so for other core modes only.
        """
        most = in_mode(self.max_batch_size, mode)
        if most is None and self.max_batch_size is not None:
            raise _unknown_mode("max_batch_size", mode, self.max_batch_size)
        return most

    def model_file(self, directory: Path, mode: str) -> Path:
        """The model file.

        Raises:
            ConfigurationError: there is none for the core mode, it isn't there, or its path
                leaves the directory.
        """
        name = in_mode(self.mxq_path, mode)
        if name is None:
            raise _unknown_mode("mxq_path", mode, self.mxq_path)
        within = PurePosixPath(name)
        if within.is_absolute() or ".." in within.parts or "\\" in name or ":" in name:
            raise ConfigurationError(
                f"mxq_path '{name}' in {directory / CONFIG} leaves the directory: name a file "
                "within it."
            )
        path = directory / within
        if not path.is_file():
            found = sorted(each.name for each in directory.glob("*.mxq"))
            raise ConfigurationError(
                f"The model file '{name}' isn't in {directory}, which has "
                f"{', '.join(found) or 'no .mxq file'}. Download the model anew, or mend mxq_path."
            )
        return path


def is_mobilint(directory: Path) -> bool:
    """Whether a directory holds a model of Mobilint's, as far as its `config.json` tells."""
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    names = config.get("architectures") if isinstance(config, dict) else None
    return isinstance(names, list) and any(str(name).startswith("Mobilint") for name in names)


def read(directory: Path) -> MobilintConfig:
    """Read `config.json`.

    Raises:
        ConfigurationError: it isn't there, or says what no session can be opened with; all at
            once.
    """
    path = directory / CONFIG
    try:
        config = MobilintConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}.") from error
    except ValidationError as error:
        raise ConfigurationError.several(
            [
                f"{path}: {'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}."
                for each in error.errors(include_url=False)
            ]
        ) from error
    if not set(config.architectures) & set(ARCHITECTURES):
        named = ", ".join(config.architectures) or "none"
        raise ConfigurationError(
            f"{path} names the architecture {named}; driver 'mobilint' runs "
            f"{', '.join(ARCHITECTURES)}."
        )
    if config.core_mode is not None:
        check_mode(config.core_mode)
    return config


def check_mode(mode: str) -> str:
    """The core mode, if there is such; else raise `ConfigurationError`."""
    if mode not in MODES:
        raise ConfigurationError.unknown("core mode", mode, MODES)
    return mode


def in_mode(value: Value | dict[str, Value] | None, mode: str) -> Value | None:
    """What a field says for a core mode; None: nothing."""
    if isinstance(value, dict):
        return value.get(mode, value.get(OTHERWISE))
    return value


def _unknown_mode(field: str, mode: str, value: object) -> ConfigurationError:
    known = sorted(value) if isinstance(value, dict) else []
    return ConfigurationError(
        f"Core mode '{mode}' isn't in the model's {field}, which has {', '.join(known)}. "
        "Name one of these as core_mode."
    )

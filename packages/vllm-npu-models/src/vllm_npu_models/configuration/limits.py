"""What a model was compiled for, as its config.json says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_npu_runtime.artifact import names
from vllm_npu_runtime.errors import ConfigurationError

DEFAULT_CHUNK = 128
"""Tokens of a prompt in a step, where the model's configuration doesn't say."""
MOBILINT_BATCH_TOKENS = 128
"""Most tokens of one request in a packed step of Mobilint's batch-compiled models."""

ANY_MODE = "default"
"""The key of a mapping that stands for every core mode without one of its own."""

PerCoreMode = int | Mapping[str, int]


@dataclass(frozen=True)
class CompiledLimits:
    """What config.json says.

    Attributes:
        core_mode: the model's own, or None.
        prefill_chunk_size: tokens of a prompt in a step, or such a number for each core mode, or
            None.
        max_batch_size: requests at once, or such a number for each core mode.
        batch_tokens: most tokens of one request in a step where several may run; None: no limit
            of its own.
        max_model_len: tokens of a request, or None.
        block_size: tokens in which prefixes are told apart, or None.
    """

    core_mode: str | None
    prefill_chunk_size: PerCoreMode | None
    max_batch_size: PerCoreMode
    batch_tokens: int | None
    max_model_len: int | None
    block_size: int | None

    @classmethod
    def of(cls, config: Any) -> CompiledLimits:
        """Read a Hugging Face configuration.

        Raises:
            ConfigurationError: a field that isn't a whole number above 0, or a mapping to such.
        """
        architecture = next(iter(getattr(config, "architectures", None) or ()), "")
        theirs = MOBILINT_BATCH_TOKENS if architecture.startswith("Mobilint") else None
        return cls(
            core_mode=getattr(config, names.CORE_MODE, None),
            prefill_chunk_size=_sizes(config, names.PREFILL_CHUNK_SIZE),
            max_batch_size=_sizes(config, names.MAX_BATCH_SIZE) or 1,
            batch_tokens=_size(config, names.BATCH_TOKENS) or theirs,
            max_model_len=_size(config, names.MAX_MODEL_LEN),
            block_size=_size(config, names.BLOCK_SIZE),
        )

    def chunk(self, core_mode: str | None) -> int:
        """Tokens of a prompt in a step, with a core mode."""
        found = _chosen(self.prefill_chunk_size, core_mode)
        return DEFAULT_CHUNK if found is None else found

    def batch(self, core_mode: str | None) -> int:
        """Requests at once, with a core mode; one where the mapping doesn't name it."""
        return _chosen(self.max_batch_size, core_mode) or 1

    def core_modes(self) -> list[str]:
        """The modes that some mapping names."""
        mappings = (self.prefill_chunk_size, self.max_batch_size)
        return sorted({key for each in mappings if isinstance(each, Mapping) for key in each})


def _chosen(given: PerCoreMode | None, core_mode: str | None) -> int | None:
    if not isinstance(given, Mapping):
        return given
    return given.get(core_mode or "", given.get(ANY_MODE))


def _sizes(config: Any, name: str) -> PerCoreMode | None:
    given = getattr(config, name, None)
    if given is None:
        return None
    if isinstance(given, Mapping) and given:
        return {str(mode): _whole(name, value, f" for '{mode}'") for mode, value in given.items()}
    return _whole(name, given)


def _size(config: Any, name: str) -> int | None:
    given = getattr(config, name, None)
    return None if given is None else _whole(name, given)


def _whole(name: str, value: object, where: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(
            f"config.json: '{name}' is {value!r}{where}; it must be a whole number above 0, or an "
            "object of such by core mode. Compile the model again."
        )
    return value

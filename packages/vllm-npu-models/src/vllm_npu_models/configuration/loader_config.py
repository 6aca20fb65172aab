"""`--model-loader-extra-config` of a model in a session: where it runs, and what to keep.

Keys may carry the prefix `text_`, as in the newest releases of vllm-mblt, whose multimodal models
tell their text part from others by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vllm_npu_runtime.errors import ConfigurationError

OPTION = "--model-loader-extra-config"
PREFIX = "text_"
# Parts that this model doesn't have, in vllm-mblt's words.
FOREIGN_PREFIXES = (
    "vision_", "encoder_", "decoder_", "base_", "draft_", "fc_", "shared_", "expert_", "lm_head_",
)  # fmt: skip


def _as_tuple(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(value)
    return (value,)


Whole = Annotated[int, Field(ge=0, strict=True)]
Count = Annotated[int, Field(gt=0, strict=True)]
Several = BeforeValidator(_as_tuple)


class LoaderConfig(BaseModel):
    """What the option may hold.

    Attributes:
        dev_no: numbers of the boards, each with a share of the slots.
        target_cores: cores, in the vendor's words.
        target_clusters: clusters of cores, by number.
        core_mode: how the cores work together; a key of what the model's configuration maps.
        max_batch_size: requests at once; no more than was compiled.
        npu_prefill_chunk_size: tokens of a prompt in a step; no more than was compiled.
        prefix_cache_max_entries: finished requests whose keys and values are kept.
        prefix_cache_max_host_mib: mebibytes that they may take of the host's memory.
        prefix_cache_min_hit_tokens: shortest prefix that is worth loading.
        prefix_cache_load_margin: a prefix is loaded if that takes less than this share of the
            time that computing it would take.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dev_no: Annotated[tuple[Whole, ...], Several] = ()
    target_cores: Annotated[tuple[str, ...], Several] = ()
    target_clusters: Annotated[tuple[Whole, ...], Several] = ()
    core_mode: str | None = None
    max_batch_size: Count | None = None
    npu_prefill_chunk_size: Count | None = None
    prefix_cache_max_entries: Whole = 16
    prefix_cache_max_host_mib: Whole = 4096
    prefix_cache_min_hit_tokens: Count = 16
    prefix_cache_load_margin: Annotated[float, Field(gt=0)] = 0.9

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> LoaderConfig:
        """Read and check the option's value.

        Raises:
            ConfigurationError: every key that isn't known, with the nearest that is, and every
                value that can't be used.
        """
        problems: list[str] = []
        values: dict[str, Any] = {}
        for key, value in given.items():
            name = key.removeprefix(PREFIX) if key not in cls.model_fields else key
            if name not in cls.model_fields:
                problems.append(_unknown(key, list(cls.model_fields)))
            elif name in values:
                problems.append(f"{OPTION}: '{name}' and '{PREFIX}{name}' are the same. Keep one.")
            else:
                values[name] = value
        try:
            made = cls(**values)
        except ValidationError as error:
            problems += [_refused(each, values) for each in error.errors()]
        if problems:
            raise ConfigurationError.several(list(dict.fromkeys(problems)))
        return made


def _unknown(key: str, known: list[str]) -> str:
    for prefix in FOREIGN_PREFIXES:
        if key.startswith(prefix) and key.removeprefix(prefix) in known:
            part = prefix.rstrip("_").replace("_", " ")
            return (
                f"{OPTION}: '{key}' is of a model's {part} part, which this model has none of "
                f"apart. Use '{key.removeprefix(prefix)}'."
            )
    return f"{OPTION}: {ConfigurationError.unknown('key', key, known)}"


def _refused(details: Any, values: Mapping[str, Any]) -> str:
    name = str(details["loc"][0])
    return f"{OPTION}: '{name}' is {values.get(name)!r}: {details['msg'].lower()}."

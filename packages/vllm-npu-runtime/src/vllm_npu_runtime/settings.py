"""The settings of the suite: one model, filled from a mapping and the environment.

The mapping is what stands under ``npu`` in vLLM's ``--additional-config '{"npu": {...}}'``. Every
setting also has a variable, and the variable wins. `docs/configuration.md` is written from here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings_errors import problems_of, unknown_variables
from vllm_npu_runtime.settings_fields import PREFIX, FieldPath, settings_of


def _no_truth(value: object) -> object:
    # pydantic takes true for 1; a user who writes `"limit": true` means something else.
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "a truth value is no number")
    return value


def _from_text(value: object) -> object:
    # Variables hold text: a list as "1,2,4" or as JSON, an object as JSON.
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"it isn't valid JSON ({error})") from None
    return [part.strip() for part in text.split(",")] if text else []


Count = Annotated[int, Field(gt=0), BeforeValidator(_no_truth)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_no_truth)]


class BucketSettings(BaseModel):
    """Which sizes graphs are compiled for; a batch is padded up to the next one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Annotated[
        Literal["exponential", "linear", "manual"],
        BeforeValidator(lambda value: "exponential" if value == "exp" else value),
    ] = Field("exponential", description="How sizes follow from the maximum; see above.")
    min: Count = Field(1, description="No size is smaller.")
    step: Count | None = Field(
        None,
        description="Divisor of the exponential strategy (above 1), difference of the linear. By "
        "default 2, and on devices that say so a larger divisor.",
    )
    limit: Count = Field(32, description="At most so many sizes.")
    manual_buckets: Annotated[tuple[Count, ...], BeforeValidator(_from_text)] = Field(
        (),
        validate_default=True,  # so that strategy 'manual' without a list is noticed
        description="The sizes of the manual strategy: unique, the largest equal to the maximum.",
    )

    @field_validator("min", "step", "limit")
    @classmethod
    def _used(cls, value: int | None, info: ValidationInfo) -> int | None:
        strategy = info.data.get("strategy")
        if strategy == "manual":
            raise ValueError(
                "strategy 'manual' takes its list as it is and would ignore this. Remove it"
            )
        if info.field_name == "step" and strategy == "exponential" and value == 1:
            raise ValueError("strategy 'exponential' divides by it, so it must be 2 or more")
        return value

    @field_validator("manual_buckets")
    @classmethod
    def _listed(cls, sizes: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        strategy = info.data.get("strategy")
        if strategy == "manual" and not sizes:
            raise ValueError("strategy 'manual' needs a list of sizes, as in 1,2,4")
        if strategy in ("exponential", "linear") and sizes:
            raise ValueError(
                f"strategy '{strategy}' would ignore it. Set the strategy to 'manual', "
                "or remove the list"
            )
        twice = sorted({size for size in sizes if sizes.count(size) > 1})
        if twice:
            raise ValueError(f"sizes must be unique, but {_words(twice)} is there twice")
        return sizes


class Settings(BaseSettings):
    """Every setting of the suite, checked. Make one with `Settings.load`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,  # TOKEN_BUCKET_MANUAL_BUCKETS is manual_buckets of token_bucket
        enable_decoding=False,  # our validators do it, and report all that is wrong at once
    )

    device: str = Field(
        "auto",
        min_length=1,
        description="Where models run. `auto` takes the first driver that finds a real NPU; "
        "`vllm-npu devices` lists what there is.",
        json_schema_extra={"allowed": "`auto` or `<driver>[:<device>]`"},
    )
    strict: bool = Field(
        False, description="A compile after warm-up is an error, not just a warning."
    )
    warm_up: bool = Field(
        True,
        description="Compile and run every bucket at start-up. Without it, the first requests "
        "wait for the compiler.",
    )
    kv_contract: Literal["auto", "paged", "gather"] = Field(
        "auto",
        description="Who reads and writes the KV cache: the device (`paged`), or the program "
        "and the host (`gather`). `auto` takes what the device prefers.",
    )
    kv_cache_dtype: Literal["auto", "float32", "bfloat16", "float16", "uint8", "uint4"] = Field(
        "auto",
        description="Numbers in the KV cache, where `--kv-cache-dtype` has no name for them: "
        "`uint8` and `uint4` are quantized, with scales beside them. `auto` leaves it to "
        "`--kv-cache-dtype`.",
    )
    dynamic_tokens: bool | None = Field(
        None,
        description="Paged contract: one graph for any number of tokens, instead of buckets. By "
        "default where the device says that this is as fast.",
    )
    prefill_chunk_size: Count | None = Field(
        None,
        description="Gather contract: tokens of the largest prefill chunk. By default 128, or "
        "`--max-num-batched-tokens` where that is smaller.",
    )
    token_bucket: BucketSettings = Field(
        BucketSettings(), description="Paged contract: tokens in a step."
    )
    decode_batch_bucket: BucketSettings = Field(
        BucketSettings(), description="Gather contract: requests in a decode run."
    )
    prefill_chunk_bucket: BucketSettings = Field(
        BucketSettings(), description="Gather contract: tokens in a prefill chunk."
    )
    run_timeout: Seconds | None = Field(
        None,
        description="Seconds after which a run on the device counts as stalled. By default it "
        "may take for ever.",
    )
    driver_options: Annotated[dict[str, Any], BeforeValidator(_from_text)] = Field(
        {}, description="Options of the driver, which refuses those that it doesn't know."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is made with: `load` adds the environment that it is given."""
        return (init_settings,)

    @classmethod
    def load(
        cls, mapping: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ
    ) -> Settings:
        """The settings that a mapping and the environment ask for; a variable wins.

        Args:
            mapping: settings by key; a bucket's as a mapping in the mapping.
            environ: variables by name; those that don't start with ``VLLM_NPU_`` are not ours.

        Raises:
            ConfigurationError: every unknown setting and every bad value, in one error.
        """
        known = environment_variables()
        values = _merged(mapping or {}, {n: text for n, text in environ.items() if n in known})
        problems = unknown_variables(environ, known)
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            problems += problems_of(error, cls, values, environ)
        if problems:
            raise ConfigurationError.several(problems)
        return settings


def environment_variables() -> dict[str, FieldPath]:
    """Every variable of the suite, with the path of the setting that it sets."""
    return {setting.variable: setting.path for setting in settings_of(Settings)}


def _merged(mapping: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): text for name, text in variables.items()}
    merged = dict(mapping)
    for key, value in source().items():
        if not isinstance(value, dict) or key not in merged:
            merged[key] = value
        elif isinstance(merged[key], Mapping):  # what isn't one is refused later
            merged[key] = {**merged[key], **value}
    return merged


def _words(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))

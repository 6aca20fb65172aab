"""The options of driver ``openvino``, given through `CompileOptions.driver`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_npu_runtime.errors import ConfigurationError

Precision = Literal["f32", "bf16", "f16"]


class OpenVINOOptions(BaseModel):
    """What a user may choose; everything else follows from the model and the device."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    threads: int | None = Field(
        None, gt=0, description="Threads of a run on CPU. By default one for each core."
    )
    pinning: bool = Field(
        False,
        description="Tie threads to cores on CPU. PyTorch computes on the same cores between "
        "runs, so by default the system places both.",
    )
    precision: Precision | None = Field(
        None, description="Arithmetic on CPU and GPU. By default that of the model's dtype."
    )
    dynamic_quantization: Literal[32, 64, 128] | None = Field(
        None,
        description="CPU, packed weights: round activations to eight bits in runs of at most 16 "
        "tokens, with a scale for each group of so many. Needs a KV cache in `uint8` or `uint4` "
        "where arithmetic is bfloat16.",
    )
    keep_blob: bool | None = Field(
        None,
        description="Keep compiled models in the compile cache, weights included, instead of "
        "compiling at each start. By default on NPUs only, which compile slowly.",
    )
    turbo: bool | None = Field(None, description="NPU: highest clock (`NPU_TURBO`).")
    compilation_mode_params: str | None = Field(
        None, description="NPU: parameters of its compiler (`NPU_COMPILATION_MODE_PARAMS`)."
    )
    npuw: bool = Field(
        False,
        description="NPU: compile through NPUW, which splits a large model and may run parts "
        "of it elsewhere (`NPU_USE_NPUW`).",
    )
    npuw_devices: str | None = Field(
        None,
        description="NPUW: devices in order of preference, as in 'NPU,CPU' (`NPUW_DEVICES`).",
    )
    npuw_online_pipeline: Literal["NONE", "INIT", "JUST", "REP", "REG", "COMPUTE", "SPATIAL"] | (
        None
    ) = Field(None, description="NPUW: how it splits (`NPUW_ONLINE_PIPELINE`).")
    npuw_fold: bool | None = Field(
        None, description="NPUW: compile equal layers once (`NPUW_FOLD`)."
    )
    npuw_dcoff_type: Literal["i8", "f16"] | None = Field(
        None, description="NPUW: type that packed weights are unpacked to (`NPUW_DCOFF_TYPE`)."
    )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> OpenVINOOptions:
        """From what a user gave.

        Raises:
            ConfigurationError: unknown options and bad values, all at once.
        """
        problems = [
            str(ConfigurationError.unknown("option of driver 'openvino'", name, names()))
            for name in options
            if name not in names()
        ]
        try:
            made = cls.model_validate({k: v for k, v in options.items() if k in names()})
        except ValidationError as error:
            problems += [
                f"Option '{each['loc'][0]}' of driver 'openvino' is {each['input']!r}: "
                f"{each['msg'][0].lower()}{each['msg'][1:]}."
                for each in error.errors()
            ]
        if problems:
            raise ConfigurationError.several(problems)
        return made


def names() -> list[str]:
    """All options."""
    return list(OpenVINOOptions.model_fields)

"""Which quantized checkpoints can be served.

The configs of `vllm-npu-quantization` say by `npu_weight_formats` what a checkpoint needs of the
device; that package isn't imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from vllm_npu_platform.target import Target

WITH_OUR_CONFIGS = (
    *("gptq", "auto_gptq", "gptq_marlin"),
    *("awq", "auto_awq", "awq_marlin"),
    "compressed-tensors",
)
"""Methods that `vllm-npu-quantization` has configs for. Without it vLLM's own fail, and say why."""

ON_LOAD = ("npu_w4a16", "npu_w8a16")
"""Methods of `vllm-npu-quantization` for checkpoints that aren't quantized."""
ROUNDED_ACTIVATIONS = "dynamic_quantization"
"""A driver's option, by which it rounds the activations of packed weights to eight bits."""


def rounding_problems(config: VllmConfig, target: Target) -> Iterator[str]:
    """A line if activations are to be rounded for packed weights, and a model has none."""
    model = config.model_config
    given = target.settings.driver_options.get(ROUNDED_ACTIVATIONS)
    if given is None or model is None or model.quantization is not None:
        return
    yield (
        f"driver_options '{ROUNDED_ACTIVATIONS}' {given}: it rounds the activations of packed "
        "weights, and the model's weights aren't quantized. Choose --quantization "
        f"{' or '.join(ON_LOAD)}, or a checkpoint whose method is one of "
        f"{', '.join(WITH_OUR_CONFIGS)}; or leave the option out."
    )


def quantization_problems(config: VllmConfig, target: Target) -> Iterator[str]:
    """A line if a model's weights are in a format that the device doesn't take."""
    method = config.model_config.quantization
    if method is None:
        return
    formats = getattr(config.quant_config, "npu_weight_formats", None)
    if formats is None:
        if method not in WITH_OUR_CONFIGS:
            yield (
                f"--quantization {method}: not supported. Served are GPTQ, AWQ, and "
                "compressed-tensors with quantized weights alone, of 4 or 8 bits, by "
                "vllm-npu-quantization. Use such a checkpoint, or the unquantized checkpoint."
            )
        return
    listed = target.device.capabilities.weight_formats
    if missing := sorted(formats - set(listed)):
        yield (
            f"--quantization {method}: the checkpoint has {', '.join(missing)} weights; "
            f"{target.device.name} takes {', '.join(listed) or 'no packed weights'}. Use another "
            "checkpoint or device."
        )

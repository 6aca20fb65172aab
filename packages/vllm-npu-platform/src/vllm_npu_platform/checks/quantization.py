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

"""vLLM's mixed-precision kernel on NPUs: repacks what was loaded, and calls the operator."""

from __future__ import annotations

import torch
from vllm.model_executor.kernels.linear import MPLinearLayerConfig
from vllm.model_executor.kernels.linear.mixed_precision.MPLinearKernel import MPLinearKernel
from vllm.scalar_type import scalar_types

from vllm_npu_quantization import repacking
from vllm_npu_quantization.target import device, on_our_platform
from vllm_npu_runtime.ops import wna16_linear  # noqa: F401  (defines the operator)
from vllm_npu_runtime.ops.packing import GROUP_SIZES, WEIGHT_FORMATS

FORMATS = {getattr(scalar_types, name): name for name in WEIGHT_FORMATS}
"""The operator's weight formats by vLLM's scalar types."""


class NPUWNA16LinearKernel(MPLinearKernel):
    """`vllm_npu::wna16_linear` for layers in GPTQ's or compressed-tensors' layout.

    After loading, a layer holds under the names that the checkpoint has: packed weights uint8
    `[outputs, bytes]`, scales `[outputs, groups]`, and zero points uint8 `[outputs, groups]` or
    None.
    """

    @classmethod
    def get_min_capability(cls) -> int:
        """There is no CUDA here."""
        return -1

    @classmethod
    def can_implement(cls, c: MPLinearLayerConfig) -> tuple[bool, str | None]:
        """Whether the device computes a layer; the reason names all that is against it."""
        if not on_our_platform():
            return False, "it is for the platform of vllm-npu-platform"
        problems = list(_problems(c))
        return not problems, " ".join(problems) or None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """From the checkpoint's layout to the operator's."""
        bits = self.config.weight_type.size_bits
        self._transform_param(layer, self.w_q_name, repacking.weight)
        if self.config.zero_points:
            self._transform_param(layer, self.w_zp_name, lambda p: repacking.zero_points(p, bits))
        elif self.w_zp_name is not None:
            setattr(layer, self.w_zp_name, None)
        self._transform_param(layer, self.w_s_name, repacking.scales)

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`[…, outputs]` from x `[…, inputs]`."""
        weight, scale, zero_point = self._get_weight_params(layer)
        bits = self.config.weight_type.size_bits
        out: torch.Tensor = torch.ops.vllm_npu.wna16_linear(
            x, weight, scale, zero_point, bias, bits
        )
        return out


def _problems(c: MPLinearLayerConfig) -> list[str]:
    problems = []
    name = FORMATS.get(c.weight_type)
    inputs, _outputs = c.partition_weight_shape
    size = inputs if c.group_size == -1 else c.group_size
    if name is None:
        problems.append(f"Weights are {c.weight_type}; there are {', '.join(WEIGHT_FORMATS)}.")
    elif name not in (listed := device().capabilities.weight_formats):
        problems.append(
            f"Weights are {name}; {device().name} takes {', '.join(listed) or 'no packed weights'}."
        )
    if c.group_size not in (*GROUP_SIZES, -1, c.full_weight_shape[0]):
        sizes = ", ".join(map(str, GROUP_SIZES))
        problems.append(f"The group size is {c.group_size}; there are {sizes} and -1.")
    if inputs % size:
        problems.append(f"{inputs} inputs are no multiple of the group size {size}.")
    return problems

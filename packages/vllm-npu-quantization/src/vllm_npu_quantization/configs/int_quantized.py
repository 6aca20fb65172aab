"""compressed-tensors' int-quantized layers: a signed code in a byte each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.kernels.linear import MPLinearLayerConfig, choose_mp_linear_kernel
from vllm.model_executor.layers.quantization.compressed_tensors.schemes import (
    CompressedTensorsScheme,
)
from vllm.model_executor.layers.quantization.utils import replace_parameter
from vllm.model_executor.parameter import (
    ChannelQuantScaleParameter,
    GroupQuantScaleParameter,
    ModelWeightParameter,
)
from vllm.scalar_type import scalar_types

from vllm_npu_quantization import repacking

_TYPES = {4: scalar_types.uint4b8, 8: scalar_types.uint8b128}


class IntQuantizedScheme(CompressedTensorsScheme):
    """Weight-only int8 (or int4 kept in int8), symmetric.

    Args:
        strategy: "group" or "channel".
        num_bits: 4 or 8.
        group_size: inputs that share a scale; None: all.
        symmetric: always true here.
        layer_name: for messages.
    """

    def __init__(
        self,
        strategy: str,
        num_bits: int,
        group_size: int | None = None,
        symmetric: bool | None = True,
        layer_name: str | None = None,
    ) -> None:
        self.num_bits = num_bits
        self.group_size = group_size if strategy == "group" and group_size else -1
        self.layer_name = layer_name

    @classmethod
    def get_min_capability(cls) -> int:
        """There is no CUDA here."""
        return -1

    def create_weights(
        self,
        layer: torch.nn.Module,
        output_size: int,
        input_size: int,
        output_partition_sizes: list[int],
        input_size_per_partition: int,
        params_dtype: torch.dtype,
        weight_loader: Callable[..., Any],
        **kwargs: Any,
    ) -> None:
        """Parameters in the checkpoint's layout, for it to be loaded into."""
        rows = sum(output_partition_sizes)
        config = MPLinearLayerConfig(
            full_weight_shape=(input_size, output_size),
            partition_weight_shape=(input_size_per_partition, rows),
            weight_type=_TYPES[self.num_bits],
            act_type=params_dtype,
            group_size=self.group_size,
            zero_points=False,
        )
        self.kernel = choose_mp_linear_kernel(config)(config, "weight", "weight_scale")
        weight = ModelWeightParameter(
            data=torch.empty(rows, input_size_per_partition, dtype=torch.int8),
            input_dim=1,
            output_dim=0,
            weight_loader=weight_loader,
        )
        layer.register_parameter("weight", weight)
        if self.group_size == -1:
            scale = ChannelQuantScaleParameter(
                data=torch.empty(rows, 1, dtype=params_dtype),
                output_dim=0,
                weight_loader=weight_loader,
            )
        else:
            groups = input_size_per_partition // self.group_size
            scale = GroupQuantScaleParameter(
                data=torch.empty(rows, groups, dtype=params_dtype),
                input_dim=1,
                output_dim=0,
                weight_loader=weight_loader,
            )
        layer.register_parameter("weight_scale", scale)

    def process_weights_after_loading(self, layer: Any) -> None:
        """From the checkpoint's layout to the operator's."""
        for name, tensor in {
            "weight": repacking.int8_weight(layer.weight.data, self.num_bits),
            "weight_scale": layer.weight_scale.data.clone(),
        }.items():
            replace_parameter(layer, name, torch.nn.Parameter(tensor, requires_grad=False))

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """`[…, outputs]` from x `[…, inputs]`."""
        out: torch.Tensor = self.kernel.apply_weights(layer, x, bias)
        return out

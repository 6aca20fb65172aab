"""AWQ checkpoints (arXiv:2306.00978), as AutoAWQ writes them in its GEMM layout."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.kernels.linear import MPLinearLayerConfig, choose_mp_linear_kernel
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig, BaseAWQLinearMethod
from vllm.model_executor.layers.quantization.utils import replace_parameter
from vllm.model_executor.layers.quantization.utils.quant_utils import is_layer_skipped
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.scalar_type import scalar_types

from vllm_npu_quantization import repacking
from vllm_npu_quantization.checkpoint.awq import check_awq
from vllm_npu_quantization.configs.common import (
    group_problems,
    refuse,
    refuse_experts,
)
from vllm_npu_quantization.configs.weight_only import WeightOnlyConfig


class NPUAWQConfig(WeightOnlyConfig, AutoAWQConfig):
    """vLLM's config, with one linear method for every layer."""

    check = staticmethod(check_awq)

    @property
    def npu_weight_formats(self) -> frozenset[str]:
        """Weight formats that the device needs, for the platform's checks."""
        return frozenset({"uint4"})

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NPUAWQConfig:
        """From a checkpoint's config.

        Raises:
            ConfigurationError: all that the operator can't do, at once.
        """
        bits = config.get("w_bit", config.get("bits"))
        problems = group_problems(config.get("q_group_size", config.get("group_size")))
        if bits != 4:
            problems.append(f"{bits} bits a weight: AWQ has 4. Use another checkpoint.")
        version = str(config.get("version", "gemm")).lower()
        if version != "gemm":
            problems.append(f'"version": "{version}": only the "gemm" layout is read. Convert it.')
        if config.get("zero_point") is not True:
            problems.append('"zero_point": false: weights without zero points are not read.')
        refuse("AWQ", problems)
        return super().from_config(config)

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
        """The method of a linear layer or LM head; None for layers that aren't quantized."""
        if isinstance(layer, RoutedExperts):
            refuse_experts("AWQ", prefix)
        is_head = isinstance(layer, ParallelLMHead) and self.lm_head_quantized
        if not is_head and not isinstance(layer, LinearBase):
            return None
        skipped = self.modules_to_not_convert
        mapping = self.packed_modules_mapping
        if is_layer_skipped(prefix, skipped, mapping, match_mode="substring"):
            return UnquantizedLinearMethod()
        return NPUAWQLinearMethod(self)


class NPUAWQLinearMethod(BaseAWQLinearMethod):
    """AWQ's layout repacked exactly, zero points included."""

    def create_weights(
        self,
        layer: torch.nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """Parameters in AWQ's layout, for the checkpoint to be loaded into."""
        config = MPLinearLayerConfig(
            full_weight_shape=(input_size, output_size),
            partition_weight_shape=(input_size_per_partition, sum(output_partition_sizes)),
            weight_type=scalar_types.uint4,
            act_type=params_dtype,
            group_size=self.quant_config.group_size,
            zero_points=True,
        )
        self.kernel = choose_mp_linear_kernel(config)(config, "qweight", "scales", "qzeros")
        super().create_weights(
            layer,
            input_size_per_partition,
            output_partition_sizes,
            input_size,
            output_size,
            params_dtype,
            **extra_weight_attrs,
        )

    def process_weights_after_loading(self, layer: Any) -> None:
        """From AWQ's layout to the operator's.

        Raises:
            ConfigurationError: the checkpoint was fetched only now, and is wrong.
        """
        self.quant_config.finish_check()
        zero_points = repacking.awq_codes(layer.qzeros.data).t().contiguous()
        _replace(layer, "qweight", repacking.awq_weight(layer.qweight.data))
        _replace(layer, "scales", layer.scales.data.t().contiguous())
        _replace(layer, "qzeros", zero_points)

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`[…, outputs]` from x `[…, inputs]`."""
        out: torch.Tensor = self.kernel.apply_weights(layer, x, bias)
        return out


def _replace(layer: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    replace_parameter(layer, name, torch.nn.Parameter(tensor, requires_grad=False))

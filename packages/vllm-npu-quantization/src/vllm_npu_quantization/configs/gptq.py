"""GPTQ checkpoints (arXiv:2210.17323), as AutoGPTQ and GPTQModel write them."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.quantization.auto_gptq import AutoGPTQConfig, AutoGPTQLinearMethod
from vllm.model_executor.layers.quantization.utils.gptq_utils import get_linear_quant_method

from vllm_npu_quantization.checkpoint.gptq import check_gptq
from vllm_npu_quantization.configs.common import (
    bits_problems,
    group_problems,
    refuse,
    refuse_experts,
)
from vllm_npu_quantization.configs.weight_only import WeightOnlyConfig


class NPUGPTQConfig(WeightOnlyConfig, AutoGPTQConfig):
    """vLLM's config, without its demand for Marlin."""

    check = staticmethod(check_gptq)

    @property
    def npu_weight_formats(self) -> frozenset[str]:
        """Weight formats that the device needs, for the platform's checks."""
        return frozenset({str(self.quant_type)})

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NPUGPTQConfig:
        """From a checkpoint's config.

        Raises:
            ConfigurationError: all that the operator can't do, at once.
        """
        problems = bits_problems(config.get("bits")) + group_problems(config.get("group_size"))
        if config.get("sym") is not True:
            problems.append('"sym": false: only symmetric weights are supported. Quantize it so.')
        if config.get("desc_act") and config.get("group_size") != -1:
            problems.append(
                '"desc_act": true: activation reordering is not supported. Quantize it with '
                '"desc_act": false.'
            )
        refuse("GPTQ", problems)
        return super().from_config(config)

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
        """The method of a linear layer or LM head; None for layers that aren't quantized."""
        if isinstance(layer, RoutedExperts):
            refuse_experts("GPTQ", prefix)
        return get_linear_quant_method(self, layer, prefix, NPUGPTQLinearMethod)


class NPUGPTQLinearMethod(AutoGPTQLinearMethod):
    """vLLM's method; the kernel is whichever it finds for the platform."""

    def __init__(self, quant_config: NPUGPTQConfig) -> None:
        # Not the base's, which asks whether Marlin supports the config.
        self.quant_config = quant_config
        self.quant_type = quant_config.quant_type
        self.input_dtype = None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """From GPTQ's layout to the operator's.

        Raises:
            ConfigurationError: the checkpoint was fetched only now, and is wrong.
        """
        self.quant_config.finish_check()
        super().process_weights_after_loading(layer)

"""compressed-tensors checkpoints with quantized weights alone: pack-quantized, int-quantized."""

from __future__ import annotations

from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationStrategy, QuantizationType
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
    CompressedTensorsConfig,
    CompressedTensorsLinearMethod,
)
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_embedding import (  # noqa: E501
    CompressedTensorsEmbeddingWNA16Int,
)
from vllm.model_executor.layers.quantization.compressed_tensors.schemes import (
    CompressedTensorsScheme,
    CompressedTensorsWNA16,
)

from vllm_npu_quantization.checkpoint.compressed_tensors import check_compressed_tensors
from vllm_npu_quantization.configs.common import (
    bits_problems,
    group_problems,
    refuse,
    refuse_experts,
)
from vllm_npu_quantization.configs.int_quantized import IntQuantizedScheme
from vllm_npu_quantization.configs.weight_only import WeightOnlyConfig
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.ops.packing import format_name

PACKED, PLAIN = "pack-quantized", ("int-quantized", "naive-quantized")
METHOD = "compressed-tensors"


class NPUCompressedTensorsConfig(WeightOnlyConfig, CompressedTensorsConfig):
    """vLLM's config, with schemes of the operator alone, int-quantized weights among them."""

    check = staticmethod(check_compressed_tensors)

    @property
    def npu_weight_formats(self) -> frozenset[str]:
        """Weight formats that the device needs, for the platform's checks."""
        weights = [scheme["weights"] for scheme in self.target_scheme_map.values()]
        return frozenset(format_name(each.num_bits, not each.symmetric) for each in weights)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> NPUCompressedTensorsConfig:
        """From a checkpoint's config.

        Raises:
            ConfigurationError: all that the operator can't do, at once.
        """
        problems = [
            f"{name}: {problem}"
            for name, group in config.get("config_groups", {}).items()
            for problem in _problems(group, config.get("format"))
        ]
        if config.get("kv_cache_scheme"):
            problems.append(
                "kv_cache_scheme: quantized KV of a checkpoint is not supported. Remove the entry; "
                "--kv-cache-dtype chooses among what the device has."
            )
        if config.get("transform_config"):
            problems.append("transform_config: transforms are not supported.")
        refuse(METHOD, problems)
        return super().from_config(config)

    @classmethod
    def _quantization_scheme_map_from_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        # The base's takes int-quantized weights for a half of W8A8.
        return {
            target: {
                "weights": QuantizationArgs.model_validate(group["weights"]),
                "input_activations": None,
                "output_activations": None,
                "format": group.get("format") or config.get("format"),
            }
            for group in config.get("config_groups", {}).values()
            for target in group["targets"]
        }

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
        """As the base's.

        Raises:
            ConfigurationError: quantized experts or embeddings.
        """
        if isinstance(layer, RoutedExperts):
            # As vLLM finds their scheme: by the name of a product of the first expert.
            self._add_fused_moe_to_target_scheme_map()
            if self.get_scheme_dict(layer, f"{prefix}.0.{layer.ckpt_gate_proj_name}"):
                refuse_experts(METHOD, prefix)
        method = super().get_quant_method(layer, prefix)
        if isinstance(method, CompressedTensorsEmbeddingWNA16Int):
            raise ConfigurationError(
                f"{METHOD} checkpoint, layer '{prefix}': quantized embeddings are not supported. "
                "Quantize the model without them."
            )
        if type(method) is CompressedTensorsLinearMethod:
            return NPUCompressedTensorsLinearMethod(self)
        return method

    def _get_scheme_from_parts(
        self,
        weight_quant: QuantizationArgs,
        input_quant: QuantizationArgs | None,
        output_quant: QuantizationArgs | None = None,
        format: str | None = None,
        layer_name: str | None = None,
    ) -> CompressedTensorsScheme:
        scheme = CompressedTensorsWNA16 if format == PACKED else IntQuantizedScheme
        return scheme(
            strategy=weight_quant.strategy,
            num_bits=weight_quant.num_bits,
            group_size=weight_quant.group_size,
            symmetric=weight_quant.symmetric,
            layer_name=layer_name,
        )


class NPUCompressedTensorsLinearMethod(CompressedTensorsLinearMethod):
    """vLLM's method."""

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """From the checkpoint's layout to the operator's.

        Raises:
            ConfigurationError: the checkpoint was fetched only now, and is wrong.
        """
        self.quantization_config.finish_check()
        super().process_weights_after_loading(layer)


def _problems(group: dict[str, Any], default_format: str | None) -> list[str]:
    """What the operator can't do of one group of layers."""
    form = group.get("format") or default_format
    problems = []
    if form not in (PACKED, *PLAIN):
        allowed = ", ".join((PACKED, *PLAIN))
        problems.append(f"format '{form}' is not supported; there are {allowed}.")
    for name in ("input_activations", "output_activations"):
        if group.get(name):
            problems.append(f"{name}: only weights may be quantized. Use a weight-only scheme.")
    if group.get("weights") is None:
        return [*problems, "no quantized weights."]
    weights = QuantizationArgs.model_validate(group["weights"])
    if weights.type != QuantizationType.INT:
        problems.append(f"weights of type '{_text(weights.type)}': only integers are supported.")
    if weights.strategy == QuantizationStrategy.GROUP:
        problems += group_problems(weights.group_size)
    elif weights.strategy != QuantizationStrategy.CHANNEL:
        problems.append(f"strategy '{_text(weights.strategy)}': there are 'group' and 'channel'.")
    if (order := _text(weights.actorder)) in ("group", "dynamic"):
        problems.append(
            f"actorder '{order}': activation reordering is not supported. "
            "Quantize it with static order, or none."
        )
    if not weights.symmetric and form in PLAIN:
        problems.append(f"asymmetric weights in format '{form}': use '{PACKED}', or symmetric.")
    return problems + bits_problems(weights.num_bits)


def _text(value: Any) -> str:
    """An enumeration's value, which the library keeps as such or as text."""
    return str(getattr(value, "value", value))

"""A linear layer that is quantized when its weights have been read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.kernels.linear import MPLinearLayerConfig, choose_mp_linear_kernel
from vllm.model_executor.layers.linear import (
    LinearMethodBase,
    UnquantizedLinearMethod,
    register_weight_loader_v2_supported_method,
)
from vllm.model_executor.layers.quantization.utils import replace_parameter
from vllm.model_executor.model_loader.reload.layerwise import initialize_online_processing
from vllm.model_executor.parameter import ModelWeightParameter
from vllm.scalar_type import scalar_types

from vllm_npu_quantization.rounding import round_weight
from vllm_npu_runtime.errors import ConfigurationError

_TYPES = {4: scalar_types.uint4b8, 8: scalar_types.uint8b128}
_DONE = "_already_called_process_weights_after_loading"


class NPUOnLoadLinearMethod(LinearMethodBase):
    """vLLM makes the weights only when it has read them, and lets go of them here.

    Args:
        bits: 4 or 8.
        group_sizes: best first; -1 fits always.
        prefix: the layer's name.
        check: called when the first layers are loaded, so that all are made.
    """

    uses_meta_device = True

    def __init__(
        self,
        bits: int,
        group_sizes: tuple[int, ...],
        prefix: str,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.bits = bits
        self.group_sizes = group_sizes
        self.prefix = prefix
        self.check = check

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
        """A plain weight, without memory until the layer is loaded.

        Raises:
            ConfigurationError: no group size divides the inputs.
        """
        rows = sum(output_partition_sizes)
        self.group_size = self._group_size(input_size_per_partition)
        config = MPLinearLayerConfig(
            full_weight_shape=(input_size, output_size),
            partition_weight_shape=(input_size_per_partition, rows),
            weight_type=_TYPES[self.bits],
            act_type=params_dtype,
            group_size=self.group_size,
            zero_points=False,
        )
        self.kernel = choose_mp_linear_kernel(config)(config, "weight", "weight_scale")
        weight = ModelWeightParameter(
            data=torch.empty(rows, input_size_per_partition, dtype=params_dtype, device="meta"),
            input_dim=1,
            output_dim=0,
            weight_loader=extra_weight_attrs.get("weight_loader"),
        )
        layer.register_parameter("weight", weight)
        initialize_online_processing(layer)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Quantize what was loaded.

        Raises:
            ConfigurationError: weights that are no numbers, or what `check` finds.
        """
        if getattr(layer, _DONE, False):
            return
        self.check()
        if not bool(torch.isfinite(layer.weight).all()):
            raise ConfigurationError(
                f"Layer '{self.prefix}' has weights that are NaN or infinity, which can't be "
                "quantized. Fetch the checkpoint again."
            )
        rounded = round_weight(layer.weight.data, self.bits, self.group_size)
        replace_parameter(layer, "weight", torch.nn.Parameter(rounded.weight, requires_grad=False))
        scale = torch.nn.Parameter(rounded.scale, requires_grad=False)
        layer.register_parameter("weight_scale", scale)
        setattr(layer, _DONE, True)

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`[…, outputs]` from x `[…, inputs]`."""
        out: torch.Tensor = self.kernel.apply_weights(layer, x, bias)
        return out

    def _group_size(self, inputs: int) -> int:
        for size in self.group_sizes:
            if size == -1 or inputs % size == 0:
                return size
        sizes = " nor ".join(map(str, self.group_sizes))
        raise ConfigurationError(
            f"Layer '{self.prefix}' has {inputs} inputs, which neither {sizes} divides. Skip it: "
            f'--additional-config \'{{"npu_quantization": {{"skip": ["{self.prefix}$"]}}}}\'.'
        )


@register_weight_loader_v2_supported_method  # vLLM goes by the class's name, not its base
class NPUSkippedLinearMethod(UnquantizedLinearMethod):
    """A layer that stays as it is.

    Args:
        check: as that of `NPUOnLoadLinearMethod`.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self.check = check

    def process_weights_after_loading(self, layer: Any) -> None:
        """As vLLM's."""
        self.check()
        super().process_weights_after_loading(layer)

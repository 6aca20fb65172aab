"""The configs behind `npu_w4a16` and `npu_w8a16`."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from vllm.config import get_current_vllm_config_or_none
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

from vllm_npu_quantization.configs.common import ACTIVATIONS
from vllm_npu_quantization.on_load.coverage import check_coverage
from vllm_npu_quantization.on_load.linear import NPUOnLoadLinearMethod, NPUSkippedLinearMethod
from vllm_npu_quantization.on_load.options import SECTION, Options
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.ops.packing import format_name


class _OnLoadConfig(QuantizationConfig):
    """Layers are quantized one by one, as soon as a layer's weights have been read."""

    NAME: ClassVar[str]
    BITS: ClassVar[int]
    GROUPS: ClassVar[tuple[int, ...]]
    """Group sizes, best first: the first that divides a layer's inputs is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._quantized: list[str] = []
        self._skipped: list[str] = []
        self._options = Options()
        self._whole = True

    @property
    def npu_weight_formats(self) -> frozenset[str]:
        """Weight formats that the device needs, for the platform's checks."""
        return frozenset({format_name(self.BITS, False)})

    def get_name(self) -> str:
        """As in `--quantization`."""
        return self.NAME

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """As the operator takes them."""
        return ACTIVATIONS

    @classmethod
    def get_min_capability(cls) -> int:
        """There is no CUDA here."""
        return -1

    @staticmethod
    def get_config_filenames() -> list[str]:
        """None: the checkpoint knows nothing of it."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizationConfig:
        """Never right: a checkpoint that is quantized has a method of its own.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            f"--quantization {cls.NAME}: the checkpoint is quantized already "
            f"({config.get('quant_method')}). Leave the option out."
        )

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
        """The method of a linear layer, or of an LM head if that is wanted."""
        self._options = options = _options()
        self._whole = _is_whole()
        if isinstance(layer, RoutedExperts):
            raise ConfigurationError(
                f"--quantization {self.NAME}, layer '{prefix}': experts of a mixture-of-experts "
                "model are not supported yet. Use a dense model, or leave the option out."
            )
        is_head = isinstance(layer, ParallelLMHead)
        if not is_head and not isinstance(layer, LinearBase):
            return None
        if options.skips(prefix) or (is_head and not options.lm_head):
            self._skipped.append(prefix)
            return None if is_head else NPUSkippedLinearMethod(self._check)
        self._quantized.append(prefix)
        return NPUOnLoadLinearMethod(self.BITS, self.GROUPS, prefix, self._check)

    def _check(self) -> None:
        """Once all layers are made: whether what is skipped is there."""
        if self._whole:
            named = f"additional-config: '{SECTION}.skip'"
            check_coverage(named, self._options.skip, self._quantized, self._skipped)


class NPUW4A16Config(_OnLoadConfig):
    """Four bits, in groups of 128 inputs, or of 64 where 128 doesn't divide them."""

    NAME = "npu_w4a16"
    BITS = 4
    GROUPS = (128, 64)


class NPUW8A16Config(_OnLoadConfig):
    """Eight bits, with a scale for each output."""

    NAME = "npu_w8a16"
    BITS = 8
    GROUPS = (-1,)


def _is_whole() -> bool:
    """Whether this process has all of the model's layers, rather than a stage of a pipeline's."""
    config = get_current_vllm_config_or_none()
    return config is None or config.parallel_config.pipeline_parallel_size == 1


def _options() -> Options:
    config = get_current_vllm_config_or_none()
    given = config.additional_config if config is not None else None
    return Options.of(given.get(SECTION, {}) if isinstance(given, dict) else {})

"""The KV cache's dtype and layout: what the configuration and the device agree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype
from vllm.v1.kv_cache_interface import AttentionSpec

from vllm_npu_platform.graph.shapes import contract_of
from vllm_npu_runtime.drivers.base import KVBlock, KVContract
from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheSpec

    from vllm_npu_platform.target import Target

OPAQUE = "opaque"


def kv_dtype(config: VllmConfig, target: Target) -> torch.dtype:
    """Dtype of the KV cache: the setting's, or what vLLM's own option says. Where neither says, see
    `automatic_dtype`.

    Raises:
        ConfigurationError: the two contradict each other.
    """
    wanted, given = target.settings.kv_cache_dtype, config.cache_config.cache_dtype
    if wanted == given == "auto":
        return automatic_dtype(config.model_config.dtype, target)
    if wanted == "auto":
        dtype: torch.dtype = kv_cache_dtype_str_to_dtype(given, config.model_config)
        return dtype
    if given != "auto":
        raise ConfigurationError(
            f"--kv-cache-dtype {given} and the setting kv_cache_dtype '{wanted}' contradict each "
            "other. Leave one out."
        )
    chosen: torch.dtype = getattr(torch, wanted)
    return chosen


def automatic_dtype(model: torch.dtype, target: Target) -> torch.dtype:
    """Dtype of the KV cache where nobody chose one: the model's if the device keeps that.

    A device that computes the model's dtype in a wider one may not. Then it is the best that it
    keeps, so that no number is rounded on its way through the cache.
    """
    capabilities = target.device.capabilities
    if model not in capabilities.arithmetic or model in capabilities.kv_cache_dtypes:
        return model
    return capabilities.kv_cache_dtypes[0]


def is_opaque(config: VllmConfig, target: Target) -> bool:
    """Whether the cache's layout is the driver's own."""
    return (
        target.device.capabilities.kv_layout == OPAQUE
        and contract_of(target, config) is KVContract.PAGED
    )


def kv_cache_specs(
    specs: Mapping[str, KVCacheSpec], config: VllmConfig, target: Target
) -> dict[str, KVCacheSpec]:
    """vLLM's specification of each layer's cache, with our dtype or the driver's bytes.

    Where the layout is the driver's own, vLLM sees so many bytes per token and no more.
    """
    dtype, opaque = kv_dtype(config, target), is_opaque(config, target)

    def ours(spec: KVCacheSpec) -> KVCacheSpec:
        if not isinstance(spec, AttentionSpec):
            return spec
        return _opaque(spec, dtype, config, target) if opaque else replace(spec, dtype=dtype)

    return {name: ours(spec) for name, spec in specs.items()}


def block_parts(spec: AttentionSpec, config: VllmConfig, target: Target) -> tuple[int, ...]:
    """Bytes of each part of a layer's block; see `Driver.kv_block_parts`.

    Args:
        spec: of the layer, as vLLM has it from `kv_cache_specs`.
        config: vLLM's.
        target: the device.
    """
    if not is_opaque(config, target):
        return (spec.page_size_bytes,)
    block = KVBlock(spec.num_kv_heads, spec.head_size, spec.block_size, kv_dtype(config, target))
    device, options = target.device, target.settings.driver_options
    return device.driver.kv_block_parts(device.info.name, block, config.model_config.dtype, options)


def _opaque(
    spec: AttentionSpec, dtype: torch.dtype, config: VllmConfig, target: Target
) -> AttentionSpec:
    block = KVBlock(spec.num_kv_heads, spec.head_size, spec.block_size, dtype)
    device, options = target.device, target.settings.driver_options
    size = device.driver.kv_block_bytes(device.info.name, block, config.model_config.dtype, options)
    per_token = -(-size // spec.block_size)
    return replace(spec, dtype=torch.uint8, num_head_slots=1, state_content_bytes=per_token)

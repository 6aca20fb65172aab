"""A layer's KV cache as one cache for each part of its blocks.

Where a driver keeps a block in parts, as keys and values, each of them lies in a run of its own
that holds it for all blocks. vLLM's connectors know only of caches `[blocks, …]`; so each part
becomes one, under a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import (
    AttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    UniformTypeKVCacheSpecs,
)

from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheSpec


@dataclass(frozen=True)
class Parts:
    """How layers' caches are split.

    Attributes:
        config: vLLM's, with a layer for each part.
        sizes: bytes of each part of a block, by the layer's name.
    """

    config: KVCacheConfig
    sizes: Mapping[str, tuple[int, ...]]


def split_config(config: KVCacheConfig, vllm_config: VllmConfig) -> Parts:
    """The configuration of the parts.

    Raises:
        ConfigurationError: a part that isn't so many bytes for each token.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    groups = []
    for group in config.kv_cache_groups:
        specs: dict[str, KVCacheSpec] = {}
        for name in group.layer_names:
            spec = _spec_of(group, name)
            sizes[name] = _sizes(spec, vllm_config)
            specs.update(_specs(name, spec, sizes[name]))
        if len(specs) > len(group.layer_names):
            whole = UniformTypeKVCacheSpecs(
                block_size=group.kv_cache_spec.block_size, kv_cache_specs=specs
            )
            group = replace(group, layer_names=list(specs), kv_cache_spec=whole)
        groups.append(group)
    return Parts(replace(config, kv_cache_groups=groups), sizes)


def split_caches(caches: Mapping[str, torch.Tensor], parts: Parts) -> dict[str, torch.Tensor]:
    """The caches of the parts, of the same memory.

    Args:
        caches: by layer, `[blocks, …]`.
        parts: of `split_config`.

    Returns:
        Caches of one part as they are; of more, uint8 `[blocks, 1, 1, bytes]` for each.
    """
    result = {}
    for name, cache in caches.items():
        sizes = parts.sizes.get(name, ())
        if len(sizes) < 2:
            result[name] = cache
            continue
        flat, begin = cache.view(torch.uint8).view(-1), 0
        for index, size in enumerate(sizes):
            end = begin + len(cache) * size
            result[_name(name, index)] = flat[begin:end].view(len(cache), 1, 1, size)
            begin = end
    return result


def _spec_of(group: KVCacheGroupSpec, name: str) -> KVCacheSpec:
    spec = group.kv_cache_spec
    return spec.kv_cache_specs[name] if isinstance(spec, UniformTypeKVCacheSpecs) else spec


def _sizes(spec: KVCacheSpec, config: VllmConfig) -> tuple[int, ...]:
    # Only our platform has it; of any other's attributes vLLM makes None.
    ask = getattr(current_platform, "kv_block_parts", None)
    if ask is None or not isinstance(spec, AttentionSpec):
        return (spec.page_size_bytes,)
    sizes: tuple[int, ...] = ask(config, spec)
    return sizes


def _specs(name: str, spec: KVCacheSpec, sizes: tuple[int, ...]) -> dict[str, KVCacheSpec]:
    if len(sizes) < 2:
        return {name: spec}
    if odd := [size for size in sizes if size % spec.block_size]:
        raise ConfigurationError(
            f"Layer '{name}' keeps {odd[0]} bytes of a part of its KV for {spec.block_size} "
            "tokens, which isn't so many bytes for each: such KV can't be transferred. Choose "
            "another KV dtype."
        )
    return {
        _name(name, index): replace(
            spec, state_content_bytes=size // spec.block_size, page_size_padded=None
        )
        for index, size in enumerate(sizes)
    }


def _name(layer: str, index: int) -> str:
    return f"{layer}/{index}"

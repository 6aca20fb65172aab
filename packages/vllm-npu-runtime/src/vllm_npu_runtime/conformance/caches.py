"""A layer's KV cache under the paged contract, in the device's layout."""

from __future__ import annotations

import math

import torch

from vllm_npu_runtime.conformance.pages import GARBAGE, Geometry
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import KVBlock

OPAQUE = "opaque"
# What stands in an opaque cache where nobody wrote: finite whatever number it is part of, and
# far off in all of them: 12 in float32 and bfloat16, 2.6 in float16.
GARBAGE_BYTE = 0x41
# NaN, and the largest of float32 and bfloat16 (in float16 NaN).
WILD_BYTES = (0xFF, 0x7F)


def new_cache(
    device: Device,
    geometry: Geometry,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    garbage: float = GARBAGE,
) -> torch.Tensor:
    """A cache that nobody has written to: bytes where the layout is the driver's own.

    Args:
        device: that reads and writes it.
        geometry: sizes.
        dtype: of the model.
        kv_dtype: of the cache.
        garbage: the number in it; in an opaque cache it stands for bytes that may be one.

    Raises:
        ConfigurationError: a model of `dtype` can't keep such a cache there.
    """
    if device.capabilities.kv_layout != OPAQUE:
        return geometry.new_cache(kv_dtype, garbage)
    block = KVBlock(geometry.groups, geometry.size, geometry.block_size, kv_dtype)
    size = device.driver.kv_block_bytes(device.info.name, block, dtype, {})
    byte = GARBAGE_BYTE if garbage == GARBAGE else WILD_BYTES[math.isfinite(garbage)]
    return torch.full((geometry.blocks, size), byte, dtype=torch.uint8)

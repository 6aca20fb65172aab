"""The CPU plugin's paged cache: sizes, and the memory that it is given."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("openvino")

from vllm_npu_runtime.drivers.base import KVBlock
from vllm_npu_runtime.errors import BadShapeError, ConfigurationError
from vllm_npu_runtime.openvino import kv_cache
from vllm_npu_runtime.openvino.config import compile_config
from vllm_npu_runtime.openvino.devices import core
from vllm_npu_runtime.openvino.options import OpenVINOOptions

from .programs import DRIVER, needs_bfloat16

SIZES = [
    (torch.float32, torch.float32),
    (torch.float32, torch.float16),
    (torch.float32, torch.uint8),
    pytest.param(torch.bfloat16, torch.bfloat16, marks=needs_bfloat16),
    (torch.bfloat16, torch.uint8),
    (torch.bfloat16, torch.uint4),
    (torch.float16, torch.float16),
]


def block(dtype: torch.dtype, heads: int = 2, size: int = 64) -> KVBlock:
    """32 tokens."""
    return KVBlock(heads, size, 32, dtype)


@pytest.fixture
def ports() -> tuple[object, object]:
    """Of a float32 cache of two heads of 64."""
    config = compile_config("CPU", OpenVINOOptions(), torch.float32, torch.float32)
    compiled = core().compile_model(kv_cache.probe(block(torch.float32)), "CPU", config)
    named = {port.get_any_name(): port for port in compiled.inputs}
    return named[kv_cache.KEYS], named[kv_cache.VALUES]


@pytest.mark.parametrize(("dtype", "kv_dtype"), SIZES, ids=str)
def test_block_bytes(dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
    """At least the numbers themselves, for quantized ones with scales beside them."""
    needed = DRIVER.kv_block_bytes("CPU", block(kv_dtype), dtype, {})
    numbers = 2 * 2 * 64 * 32
    if kv_dtype.is_floating_point:
        assert needed == numbers * kv_dtype.itemsize
    else:
        bits = 4 if kv_dtype is torch.uint4 else 8
        assert numbers * bits // 8 < needed < numbers * 2


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.int8, torch.float64])
def test_impossible_cache_is_refused(kv_dtype: torch.dtype) -> None:
    """With float32 arithmetic."""
    with pytest.raises(ConfigurationError, match="KV cache dtype"):
        DRIVER.kv_block_bytes("CPU", block(kv_dtype), torch.float32, {})


def test_memory_is_shared(ports: tuple[object, object]) -> None:
    """Keys first, then values, of one piece of memory."""
    needed = kv_cache.cache_bytes(*ports)
    memory = torch.zeros(5, 32, needed // 32, dtype=torch.uint8)
    caches = kv_cache.split(memory, *ports)
    assert list(caches.keys.shape) == list(caches.values.shape) == [5, 2, 32, 64]
    caches.keys.data[...] = 1.0
    caches.values.data[...] = 2.0
    numbers = memory.view(-1).view(torch.float32)
    half = numbers.numel() // 2
    assert torch.equal(numbers[:half], torch.ones(half))
    assert torch.equal(numbers[half:], torch.full((half,), 2.0))


def test_small_memory_is_refused(ports: tuple[object, object]) -> None:
    """The message has both sizes."""
    with pytest.raises(BadShapeError, match="100 bytes a block; OpenVINO needs 32768"):
        kv_cache.split(torch.zeros(5, 100, dtype=torch.uint8), *ports)


@pytest.mark.parametrize("wrong", ["dtype", "strides"])
def test_other_memory_is_refused(ports: tuple[object, object], wrong: str) -> None:
    """Contiguous bytes, and nothing else."""
    memory = torch.zeros(5, 2 * 32768, dtype=torch.uint8)
    memory = memory.view(torch.float32) if wrong == "dtype" else memory[:, :32768]
    with pytest.raises(BadShapeError, match="contiguous uint8"):
        kv_cache.split(memory, *ports)

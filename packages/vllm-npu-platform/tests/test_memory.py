"""How much memory the KV cache gets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_npu_platform.memory import GIB, kv_cache_bytes
from vllm_npu_runtime.drivers.base import DeviceInfo
from vllm_npu_runtime.errors import ConfigurationError


def cache(wanted: int | None = None, share: float = 0.5) -> Any:
    return SimpleNamespace(kv_cache_memory_bytes=wanted, gpu_memory_utilization=share)


def device(free: int = 16 * GIB, shares: bool = False) -> DeviceInfo:
    return DeviceInfo("", "a device", 16 * GIB, free, shares_host_memory=shares)


def test_bytes_that_were_asked_for_are_taken_as_given() -> None:
    assert kv_cache_bytes(cache(3 * GIB), device(), 15 * GIB, GIB, GIB) == 3 * GIB


def test_more_than_is_free_is_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        kv_cache_bytes(cache(3 * GIB), device(free=2 * GIB), 0, 0, 0)
    assert f"--kv-cache-memory-bytes {3 * GIB} (3.00 GiB)" in str(error.value)
    assert "a device has 2.00 GiB free. Ask for less." in str(error.value)


def test_a_share_of_the_device_less_weights_and_activations() -> None:
    others_use_it_too = device(free=9 * GIB)
    assert kv_cache_bytes(cache(), others_use_it_too, 2 * GIB, GIB, 0) == 5 * GIB


def test_a_device_in_the_hosts_memory_leaves_half_of_what_is_free() -> None:
    host = device(free=4 * GIB, shares=True)
    assert kv_cache_bytes(cache(), host, GIB, GIB, 9 * GIB) == 2 * GIB


def test_a_device_in_the_hosts_memory_takes_no_more_than_requests_can_fill() -> None:
    """Twice what all requests need at full length, for prefixes of earlier ones; 1 GiB at least."""
    host = device(shares=True)
    assert kv_cache_bytes(cache(), host, 0, 0, full=2 * GIB) == 4 * GIB
    assert kv_cache_bytes(cache(), host, 0, 0, full=GIB // 8) == GIB


def test_nothing_left_is_refused_with_the_sum() -> None:
    with pytest.raises(ConfigurationError) as error:
        kv_cache_bytes(cache(share=0.25), device(), 3 * GIB, GIB, GIB)
    text = str(error.value)
    assert "--gpu-memory-utilization 0.25: of 16.00 GiB on a device" in text
    assert "weights take 3.00 GiB and activations 1.00 GiB" in text
    assert "--max-num-batched-tokens" in text

"""How much of the device's memory the KV cache may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import CacheConfig

    from vllm_npu_runtime.drivers.base import DeviceInfo

# A host runs other things as well: of what is free there, this share may become KV cache.
HOST_SHARE = 0.5
GIB = 1 << 30


def kv_cache_bytes(cache: CacheConfig, device: DeviceInfo, weights: int, activations: int) -> int:
    """Bytes for the KV cache.

    `--kv-cache-memory-bytes` is taken as given. Else it is `--gpu-memory-utilization` of the
    device's memory less weights and activations, and on a device that shares the host's memory
    no more than half of what is free there.

    Args:
        cache: vLLM's KV settings.
        device: with its memory as it is now, weights on a sharing device already loaded.
        weights: bytes of the model's weights.
        activations: bytes that running needs.

    Raises:
        ConfigurationError: nothing is left, or more is asked for than there is.
    """
    wanted = cache.kv_cache_memory_bytes
    if wanted is not None:
        if wanted > device.free_memory:
            raise ConfigurationError(
                f"--kv-cache-memory-bytes {wanted} ({wanted / GIB:.2f} GiB): {device.description} "
                f"has {device.free_memory / GIB:.2f} GiB free. Ask for less."
            )
        return wanted
    share = cache.gpu_memory_utilization
    budget = int(device.total_memory * share)
    if device.shares_host_memory:  # The weights are loaded, so what is free is without them.
        budget = min(budget - weights - activations, int(device.free_memory * HOST_SHARE))
    else:
        budget = min(budget, device.free_memory) - weights - activations
    if budget <= 0:
        raise ConfigurationError(
            f"--gpu-memory-utilization {share}: of {device.total_memory / GIB:.2f} GiB on "
            f"{device.description}, weights take {weights / GIB:.2f} GiB and activations "
            f"{activations / GIB:.2f} GiB; nothing is left for the KV cache. Use a smaller model, "
            "a smaller --max-num-batched-tokens, or a larger share."
        )
    return budget

"""How much of the device's memory the KV cache may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import CacheConfig

    from vllm_npu_runtime.drivers.base import DeviceInfo

# A host runs other things as well: of what is free there, this share may become KV cache.
HOST_SHARE = 0.5
# Room for every request at its full length, and as much again for prefixes of earlier ones.
HOST_ROUNDS = 2
GIB = 1 << 30
# So little that it isn't worth counting, and enough for what vLLM rounds up.
HOST_LEAST = GIB


def kv_cache_bytes(
    cache: CacheConfig, device: DeviceInfo, weights: int, activations: int, full: int
) -> int:
    """Bytes for the KV cache.

    `--kv-cache-memory-bytes` is taken as given. Else it is `--gpu-memory-utilization` of the
    device's memory less weights and activations. A device that shares the host's memory takes
    neither more than half of what is free there, nor more than requests and their prefixes can
    fill: the memory is the host's own, and clearing it takes time.

    Args:
        cache: vLLM's KV settings.
        device: with its memory as it is now, weights on a sharing device already loaded.
        weights: bytes of the model's weights.
        activations: bytes that running needs.
        full: bytes of KV of as many requests as may run at once, each at its full length.

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
        budget = min(budget, max(HOST_ROUNDS * full, HOST_LEAST))
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

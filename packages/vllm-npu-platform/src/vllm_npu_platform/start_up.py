"""The start-up line: where the model runs, measured and not assumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vllm_npu_platform.graph.shapes import contract_of
from vllm_npu_platform.memory import GIB
from vllm_npu_platform.stats import counters as names

if TYPE_CHECKING:
    from vllm_npu_platform.graph.executor import GraphExecutor
    from vllm_npu_platform.worker import NPUWorker


def start_up_line(worker: NPUWorker, executors: Sequence[GraphExecutor], seconds: float) -> str:
    """One line for the log.

    Args:
        worker: with its runner set up.
        executors: empty where the model runs without graphs.
        seconds: of warm-up.
    """
    target, runner = worker.target, worker.model_runner
    device, capabilities = target.device, target.device.capabilities
    caches = {cache.untyped_storage().data_ptr(): cache for cache in runner.kv_caches}
    size = sum(cache.untyped_storage().nbytes() for cache in caches.values())
    layout = f"KV {capabilities.kv_layout}, {size / GIB:.2f} GiB" if size else "no KV cache"
    if size:
        dtypes = sorted({str(cache.dtype).removeprefix("torch.") for cache in caches.values()})
        layout += f" of {'/'.join(dtypes)}, {worker.cache_config.num_gpu_blocks} blocks"
    values = worker.counters.values
    graphs = (
        f"{values[names.COMPILED]:.0f} graphs compiled in {seconds:.1f} s, "
        f"{values[names.LOADED]:.0f} loaded"
        if executors
        else "no graphs (enforce_eager)"
    )
    buckets = ", ".join(
        f"{each.prefix}{shape}" for each in executors for shape in sorted(each.shapes)
    )
    host = sorted({name for each in executors for name in each.host_operators})
    parts = [
        f"NPU platform: {device.name} ({device.info.description}), {device.driver.version()}",
        str(runner.dtype).removeprefix("torch."),
        f"{contract_of(target, worker.vllm_config)} contract, {layout}",
        graphs,
        f"buckets {buckets}" if buckets else "no buckets",
        f"on the host: {', '.join(host)}" if host else "no operator left on the host",
    ]
    return "; ".join(parts)

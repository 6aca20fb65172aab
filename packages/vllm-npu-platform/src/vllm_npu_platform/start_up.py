"""The start-up line: where the model runs, measured and not assumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vllm_npu_platform.checks.quantization import ON_LOAD
from vllm_npu_platform.graph.shapes import contract_of
from vllm_npu_platform.kv_cache import is_opaque, kv_dtype
from vllm_npu_platform.memory import GIB
from vllm_npu_platform.sessions import in_session
from vllm_npu_platform.stats import counters as names

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from vllm_npu_platform.graph.executor import GraphExecutor
    from vllm_npu_platform.target import Target
    from vllm_npu_platform.worker import NPUWorker


def start_up_line(worker: NPUWorker, executors: Sequence[GraphExecutor], seconds: float) -> str:
    """One line for the log.

    Args:
        worker: with its runner set up.
        executors: empty where the model runs without graphs.
        seconds: of warm-up.
    """
    target, runner = worker.target, worker.model_runner
    device = target.device
    config = worker.vllm_config
    where = f"NPU platform: {device.name} ({device.info.description}), {device.driver.version()}"
    if in_session(config):
        return f"{where}; {runner.model.session.describe()}; {_threads(target)}"
    caches = {cache.untyped_storage().data_ptr(): cache for cache in runner.kv_caches}
    size = sum(cache.untyped_storage().nbytes() for cache in caches.values())
    layout = "no KV cache"
    if size:
        own = is_opaque(config, target)
        dtypes = {kv_dtype(config, target)} if own else {each.dtype for each in caches.values()}
        names_of = "/".join(sorted(map(_short, dtypes)))
        kind = f"KV in {device.driver.name}'s own layout" if own else "KV NHC"
        blocks = worker.cache_config.num_gpu_blocks
        layout = f"{kind}, {size / GIB:.2f} GiB of {names_of}, {blocks} blocks"
    values = worker.counters.values
    graphs = (
        f"{values[names.COMPILED]:.0f} graphs compiled and {values[names.LOADED]:.0f} loaded "
        f"in {seconds:.1f} s"
        if executors
        else "no graphs (enforce_eager)"
    )
    buckets = ", ".join(
        f"{each.prefix}{shape}" for each in executors for shape in sorted(each.shapes)
    )
    host = sorted({name for each in executors for name in each.host_operators})
    parts = [
        where,
        *_arithmetic(runner.dtype, config, target),
        f"{contract_of(target, config)} contract, {layout}",
        graphs,
        f"buckets {buckets}" if buckets else "no buckets",
        f"on the host: {', '.join(host)}" if host else "no operator left on the host",
        _threads(target),
    ]
    return "; ".join(parts)


def _arithmetic(dtype: torch.dtype, config: VllmConfig, target: Target) -> list[str]:
    """The model's dtype; where it isn't what the device computes in, that too, and what would be
    faster where there is no arithmetic of 16 bits at all."""
    can = target.device.capabilities
    name, computed = _short(dtype), can.computes_in(dtype)
    if computed is dtype:
        return [name]
    parts = [f"{name} computed in {_short(computed)}"]
    widened = all(can.computes_in(each) is torch.float32 for each in can.dtypes)
    if widened and can.weight_formats and config.model_config.quantization is None:
        parts.append(
            "no 16-bit arithmetic here, so packed weights are faster: --quantization "
            f"{' or '.join(sorted(ON_LOAD, reverse=True))}"
        )
    return parts


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _threads(target: Target) -> str:
    """How many threads compute on the host's processor, and for whom."""
    device = target.device
    own = device.driver.host_threads(device.info.name, target.settings.driver_options)
    shares = {} if own is None else {device.driver.name: own}
    shares["PyTorch"] = torch.get_num_threads()
    return "threads: " + ", ".join(f"{name} {count}" for name, count in shares.items())

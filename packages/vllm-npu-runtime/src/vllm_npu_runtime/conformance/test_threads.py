"""Executables used from several threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vllm_npu_runtime.conformance.bench import Bench
from vllm_npu_runtime.conformance.oracle import assert_close
from vllm_npu_runtime.drivers.base import Executable

RUNS = 20


def test_two_executables_in_two_threads(bench: Bench, finest: torch.dtype) -> None:
    """Each computes its own, at the same time."""
    xs = [torch.randn(8, 32).to(finest) for _ in range(2)]
    weights = [(torch.randn(32, 32) * 32**-0.5).to(finest) for _ in range(2)]

    def make(index: int) -> Executable:
        x, weight = xs[index], weights[index]
        return bench.compile(lambda: {"out": x @ weight}, {"x": x}, {"weight": weight})

    executables = [make(0), make(1)]
    start = threading.Barrier(2)

    def work(index: int) -> None:
        expected = xs[index].float() @ weights[index].float()
        start.wait()
        for _ in range(RUNS):
            assert_close(executables[index].run()[0], expected, finest)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))


def test_run_releases_the_gil(
    bench: Bench, finest: torch.dtype, pytestconfig: pytest.Config
) -> None:
    """While the device computes, other threads of the engine get on with their work."""
    if not pytestconfig.getoption("--npu-gil"):
        pytest.skip("measured only with --npu-gil, as it wants a quiet machine")
    x = torch.randn(1024, 1024).to(finest)

    def work() -> dict[str, torch.Tensor]:
        y = x
        for _ in range(4):
            y = y @ x * 1e-2
        return {"out": y}

    executable = bench.compile(work, {"x": x})
    executable.run()
    begin = time.perf_counter()
    executable.run()
    alone = time.perf_counter() - begin
    thread = threading.Thread(target=executable.run)
    thread.start()
    ticks = 0
    while thread.is_alive():
        time.sleep(alone / 100)
        ticks += 1
    thread.join()
    # A run that held the GIL would let this thread wake once or twice.
    assert ticks > 10

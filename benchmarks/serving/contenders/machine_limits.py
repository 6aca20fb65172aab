"""No engine: what the machine itself can do, with as many threads as the engines have."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

READ_BYTES = 4 << 30
"""Much more than any cache holds, so that reading it is reading memory."""

GEMM_SHAPES = (
    (1024, 1024, 2816),
    (2048, 2048, 2048),
    (4096, 1024, 2816),
    (4096, 4096, 4096),
)
REPEATS = 7


def fastest(work: Callable[[], object]) -> float:
    """Least seconds of a few runs after a first one."""
    work()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def read_bandwidth(threads: int) -> dict[str, float]:
    """Bytes per second of several ways to read a buffer once; the best is the limit."""
    import numpy
    import torch

    numbers = torch.ones(READ_BYTES // 8, dtype=torch.int64)
    floats = numbers.view(torch.float32)
    parts = numpy.array_split(numbers.numpy(), threads)
    with ThreadPoolExecutor(threads) as pool:
        ways: dict[str, Callable[[], object]] = {
            "torch sum of int64": numbers.sum,
            "torch product of float32 with itself": lambda: torch.dot(floats, floats),
            "numpy or of int64, in threads": lambda: list(pool.map(numpy.bitwise_or.reduce, parts)),
        }
        return {name: READ_BYTES / fastest(way) for name, way in ways.items()}


def gemm_rate(dtype: str) -> dict[str, float]:
    """Operations per second of matrix products in a dtype; the best is the limit."""
    import torch

    rates, kind = {}, getattr(torch, dtype)
    for rows, inner, columns in GEMM_SHAPES:
        left = torch.randn(rows, inner).to(kind)
        right = torch.randn(columns, inner).to(kind)
        seconds = fastest(lambda left=left, right=right: left @ right.T)  # type: ignore[misc]
        rates[f"{rows}×{inner}×{columns}"] = 2 * rows * inner * columns / seconds
    return rates


class Contender:
    """Answers `limits` alone."""

    def limits(self, threads: int, dtype: str) -> dict[str, Any]:
        """Rates by the way they were reached; the best are the limits."""
        import torch

        torch.set_num_threads(threads)
        bandwidths, rates = read_bandwidth(threads), gemm_rate(dtype)
        return {
            "reads": bandwidths,
            "gemms": rates,
            "buffer_bytes": READ_BYTES,
        }

"""What is counted of a run."""

from __future__ import annotations

import pytest

from vllm_npu_platform.graph.plan import Run
from vllm_npu_platform.graph.shapes import Shape
from vllm_npu_platform.stats import counters as names
from vllm_npu_platform.stats.counters import Counters
from vllm_npu_runtime.drivers.base import KVContract


@pytest.mark.parametrize(("dynamic", "tokens", "rows"), [(False, 59, 6), (True, 0, 0)])
def test_padding_is_what_a_static_graph_runs_beyond_the_batch(
    dynamic: bool, tokens: int, rows: int
) -> None:
    """A graph that takes any number of tokens runs no more than there are."""
    shape = Shape(KVContract.PAGED, tokens=64, requests=8, dynamic=dynamic)
    counters = Counters()
    counters.run("", Run(shape, slice(0, 5), slice(0, 2), num_tokens=5, num_requests=2), 0.5)
    values = counters.values
    assert (values[names.TOKENS], values[names.ROWS]) == (5, 2)
    assert values.get(names.PADDED_TOKENS, 0) == tokens
    assert values.get(names.PADDED_ROWS, 0) == rows
    assert values[names.DEVICE_SECONDS] == 0.5

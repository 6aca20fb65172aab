"""NaN and infinity in a step: whose they are, told once."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from vllm_npu_platform.nonfinite import HIDDEN, LOGITS, NonFinite
from vllm_npu_platform.stats import counters as names
from vllm_npu_platform.stats.counters import Counters

REQUESTS = ["a", "b", "c"]


def owners() -> np.ndarray:
    """Two rows of `a`, one of `b`, three of `c`."""
    return np.array([0, 0, 1, 2, 2, 2])


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def seen(counters: Counters) -> NonFinite:
    return NonFinite(counters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -float("inf")])
def test_each_belongs_to_its_request(
    seen: NonFinite, counters: Counters, dtype: torch.dtype, wild: float
) -> None:
    rows = torch.ones(6, 4, dtype=dtype)
    rows[1, 3] = rows[3, 0] = rows[5, 0] = wild
    seen.look(rows, owners, REQUESTS, HIDDEN)
    assert seen.found == {"a": 1, "c": 2}
    assert counters.values[names.NONFINITE] == 2


def test_large_numbers_are_numbers(seen: NonFinite) -> None:
    def never() -> np.ndarray:
        raise AssertionError("nobody needs the owners")

    seen.look(torch.full((6, 4), torch.finfo(torch.float32).max), never, REQUESTS, HIDDEN)
    assert not seen.found


def test_a_request_is_told_of_once(
    seen: NonFinite, counters: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    """Although its logits hold them too, and steps scheduled ahead find it again."""
    rows = torch.ones(6, 4)
    rows[2] = float("nan")
    with caplog.at_level(logging.ERROR, "vllm.npu"):
        for _ in range(2):
            seen.look(rows, owners, REQUESTS, HIDDEN)
            seen.look(rows, owners, REQUESTS, LOGITS)
            assert seen.take() == {"b": 2}
    (line,) = caplog.messages
    assert line.startswith("Request b is ended with an error: its hidden states hold NaN")
    assert counters.values[names.NONFINITE] == 1


def test_a_new_step_begins_with_nothing(seen: NonFinite) -> None:
    rows = torch.full((6, 4), float("nan"))
    seen.look(rows, owners, REQUESTS, HIDDEN)
    assert seen.take() == {"a": 2, "b": 1, "c": 3}
    assert not seen.take()

"""`encoder_attention`: every token sees its whole request, and nothing of another."""

from collections.abc import Mapping, Sequence

import pytest
import torch

from vllm_npu_runtime.conformance import oracle
from vllm_npu_runtime.conformance.bench import Bench, run

TOKENS, ROWS, HEADS, SIZE = 16, 4, 4, 32


def _check(
    bench: Bench,
    lengths: Sequence[int],
    dtype: torch.dtype,
    groups: int = 2,
    window: int = 0,
    soft_cap: float = 0.0,
) -> None:
    query = torch.randn(TOKENS, HEADS, SIZE).to(dtype)
    key, value = (torch.randn(TOKENS, groups, SIZE).to(dtype) for _ in range(2))
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    bounds = [0, *ends, *ends[-1:] * (ROWS - len(ends))]
    starts = torch.tensor(bounds, dtype=torch.int32)
    scale = SIZE**-0.5

    def attend() -> Mapping[str, torch.Tensor]:
        out = torch.ops.vllm_npu.encoder_attention(
            query, key, value, starts, scale, window, soft_cap
        )
        return {"out": out}

    inputs = {"query": query, "key": key, "value": value, "starts": starts}
    out = run(bench.compile(attend, inputs))["out"]
    assert out.isfinite().all()
    for begin, end in zip(bounds, ends, strict=False):
        rows = slice(begin, end)
        mask = torch.ones(end - begin, end - begin, dtype=torch.bool)
        if window:
            mask = mask.tril(window - 1).triu(1 - window)
        expected = oracle.attention(query[rows], key[rows], value[rows], mask, scale, soft_cap)
        oracle.assert_close(out[rows], expected, dtype)


def test_one_request(bench: Bench, finest: torch.dtype) -> None:
    """It fills the bucket."""
    _check(bench, [TOKENS], finest)


def test_several_requests(bench: Bench, finest: torch.dtype) -> None:
    """Requests side by side, one of a single token, and padding behind them."""
    _check(bench, [5, 1, 7], finest)


@pytest.mark.parametrize("groups", [1, 4])
def test_grouped_query(bench: Bench, finest: torch.dtype, groups: int) -> None:
    """All or each of the query heads share a key/value head."""
    _check(bench, [5, 6], finest, groups=groups)


@pytest.mark.parametrize("window", [1, 3])
def test_sliding_window(bench: Bench, finest: torch.dtype, window: int) -> None:
    """A token sees window - 1 tokens to either side."""
    _check(bench, [9, 4], finest, window=window)


def test_soft_cap(bench: Bench, finest: torch.dtype) -> None:
    """Scores are bent to within the cap before the softmax."""
    _check(bench, [9, 4], finest, soft_cap=2.0)


def test_dtypes(bench: Bench, dtype: torch.dtype) -> None:
    """Every declared dtype."""
    _check(bench, [5, 1, 7], dtype)

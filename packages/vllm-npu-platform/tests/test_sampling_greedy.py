"""Greedy tokens: torch's own choice, in a tenth of the time."""

from __future__ import annotations

import pytest
import torch

from vllm_npu_platform.sampling.greedy import argmax

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def some_logits(rows: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows + vocabulary)
    return torch.randn(rows, vocabulary, generator=generator).to(dtype)


@pytest.mark.parametrize("shape", [(0, 7), (1, 1), (1, 32_000), (3, 17), (256, 1_000)], ids=str)
def test_tokens_are_torchs(shape: tuple[int, int]) -> None:
    logits = some_logits(*shape)
    tokens = argmax(logits)
    assert tokens.dtype is torch.int64
    assert tokens.equal(logits.argmax(-1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_dtype_of_a_model_will_do(dtype: torch.dtype) -> None:
    """In 16 bits a row of a thousand has many equals, of which the first counts."""
    logits = some_logits(5, 1_000, dtype).clamp(max=1)
    first = [row.index(max(row)) for row in logits.tolist()]
    assert argmax(logits).tolist() == first


def test_of_equals_the_first_is_taken() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0], [0.0, 1.0, 0.0, 1.0]])
    assert argmax(logits).tolist() == [1, 0, 1]


def test_tokens_that_are_ruled_out_are_never_taken() -> None:
    logits = torch.full((2, 6), -torch.inf)
    logits[0, 4] = -1e30
    logits[1, 2:] = torch.finfo(torch.float32).min
    assert argmax(logits).tolist() == [4, 2]


def test_where_all_tokens_are_ruled_out_the_first_is_taken() -> None:
    assert argmax(torch.full((2, 5), -torch.inf)).tolist() == [0, 0]


def test_logits_may_be_part_of_a_larger_tensor() -> None:
    logits = some_logits(8, 12)[::2, 1:9]
    assert argmax(logits).equal(logits.argmax(-1))

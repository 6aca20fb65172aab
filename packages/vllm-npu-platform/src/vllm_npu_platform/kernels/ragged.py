"""Requests of different lengths, flattened into one row of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def lengths(cumulative: np.ndarray) -> np.ndarray:
    """Lengths `[requests]` from their inclusive sums `[requests]`; the dtype stays."""
    counts = cumulative.copy()
    counts[1:] -= cumulative[:-1]
    return counts


def rows_and_places(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every token its request, and its place within that request.

    Args:
        counts: tokens per request, integers `[requests]`.

    Returns:
        Two int64 arrays `[tokens]`: for counts `[2, 0, 1]`, rows `[0, 0, 2]` and places
        `[0, 1, 0]`.
    """
    rows = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts, dtype=np.int64) - counts
    return rows, np.arange(len(rows)) - starts[rows]


def expand(
    output_ptr: torch.Tensor,
    input_ptr: torch.Tensor,
    cu_num_tokens_ptr: torch.Tensor,
    replace_from: float,
    replace_to: float,
    MAX_NUM_TOKENS: int,
) -> None:
    """Repeat a value of each request for all its tokens.

    Args:
        output_ptr: `[tokens]`, any dtype; written.
        input_ptr: `[requests]`, of the same dtype.
        cu_num_tokens_ptr: inclusive sums of the tokens per request, int32 `[requests]`.
        replace_from: a value to be replaced, as greedy requests' temperature of 0 is,
        replace_to: and by what.
        MAX_NUM_TOKENS: the most tokens that a request may have.
    """
    values = input_ptr.numpy()
    repeated = np.repeat(
        np.where(values == replace_from, replace_to, values),
        lengths(cu_num_tokens_ptr.numpy()),
    )
    output_ptr.numpy()[: len(repeated)] = repeated

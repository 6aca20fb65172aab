"""Copies of KV pages between two memories that the host sees.

A page is what one block of tokens takes in one layer's cache, in whatever layout the driver has.
Runs of pages that follow each other on both sides are copied at once, without the GIL.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    Pages = npt.NDArray[np.uint8]
    Index = npt.NDArray[np.int64]


def pages_of(tensor: torch.Tensor, size: int) -> Pages:
    """A tensor's memory as pages.

    Args:
        tensor: int8 `[rows, bytes]` on the host, each row contiguous.
        size: of a page, in bytes; a row holds a whole number of them.

    Returns:
        uint8 `[rows, pages in a row, size]`, the same memory.

    Raises:
        ValueError: a row isn't so many whole pages.
    """
    rows, length = tensor.shape
    if length % size:
        raise ValueError(f"A row of {length} bytes holds no whole number of pages of {size}.")
    flat = tensor.detach().numpy().view(np.uint8)
    shape, strides = (rows, length // size, size), (flat.strides[0], size, 1)
    return np.lib.stride_tricks.as_strided(flat, shape, strides)


def copy_pages(source: Pages, source_index: Index, target: Pages, target_index: Index) -> None:
    """Copy pages, in the order of the indices.

    Args:
        source: `[rows, pages in a row, size]`.
        source_index: int64 `[N]`, pages counted through all rows.
        target: likewise, with pages of the same size.
        target_index: int64 `[N]`.
    """
    for begin, end in _runs((source, source_index), (target, target_index)):
        count = end - begin
        _run(target, target_index[begin], count)[...] = _run(source, source_index[begin], count)


def _runs(*sides: tuple[Pages, Index]) -> Iterator[tuple[int, int]]:
    """Where pages lie one after the other on every side, as far as one view reaches."""
    length = len(sides[0][1])
    if length == 0:
        return
    breaks = np.zeros(length - 1, dtype=bool)
    for pages, index in sides:
        breaks |= np.diff(index) != 1
        if pages.shape[1] > 1:  # rows may lie apart
            breaks |= index[1:] % pages.shape[1] == 0
    cuts = [0, *(np.flatnonzero(breaks) + 1).tolist(), length]
    yield from pairwise(cuts)


def _run(pages: Pages, first: int, count: int) -> Pages:
    per_row = pages.shape[1]
    if per_row == 1:
        return pages[first : first + count, 0]
    row, inside = divmod(int(first), per_row)
    return pages[row, inside : inside + count]

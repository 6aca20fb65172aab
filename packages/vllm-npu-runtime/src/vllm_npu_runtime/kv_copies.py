"""Copies of KV pages between two memories that the host sees.

A page is what one block of tokens takes in one layer's cache, in whatever layout the driver has.
Runs of pages that follow each other on both sides are copied as one, and all copies are made in
one call, without the GIL: a thread that gave it up for each would wait for it as often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

    Index = npt.NDArray[np.int64]


def pages_of(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """A tensor's memory as pages.

    Args:
        tensor: int8 `[rows, bytes]` on the host, each row contiguous.
        size: of a page, in bytes; a row holds a whole number of them.

    Returns:
        int8 `[rows, pages in a row, size]`, the same memory.

    Raises:
        ValueError: a row isn't so many whole pages.
    """
    rows, length = tensor.shape
    if length % size:
        raise ValueError(f"A row of {length} bytes holds no whole number of pages of {size}.")
    return tensor.as_strided((rows, length // size, size), (tensor.stride(0), size, 1))


class PageCopies:
    """Copies that are collected, and then made together."""

    def __init__(self) -> None:
        self._targets: list[torch.Tensor] = []
        self._sources: list[torch.Tensor] = []

    def add(
        self,
        sources: Sequence[torch.Tensor],
        source_index: Index,
        targets: Sequence[torch.Tensor],
        target_index: Index,
    ) -> None:
        """Copy the same pages of several tensors, in the order of the indices.

        Args:
            sources: each `[rows, pages in a row, size]`; as many pages in a row in all of them.
            source_index: int64 `[N]`, pages counted through all rows.
            targets: one for each source, with pages of its size; else likewise.
            target_index: int64 `[N]`.
        """
        if not sources:
            return
        # Found once for all layers: there are dozens.
        source_row, target_row = sources[0].shape[1], targets[0].shape[1]
        for begin, end in _runs((source_row, source_index), (target_row, target_index)):
            count = end - begin
            at_source, at_target = int(source_index[begin]), int(target_index[begin])
            self._sources += [_run(pages, at_source, count) for pages in sources]
            self._targets += [_run(pages, at_target, count) for pages in targets]

    def make(self) -> None:
        """Make all copies."""
        if self._targets:
            torch._foreach_copy_(self._targets, self._sources)


def _runs(*sides: tuple[int, Index]) -> Iterator[tuple[int, int]]:
    """Where pages lie one after the other on every side, as far as one view reaches.

    Args:
        sides: pages in a row, and int64 `[N]`, pages counted through all rows.
    """
    length = len(sides[0][1])
    if length == 0:
        return
    breaks = np.zeros(length - 1, dtype=bool)
    for per_row, index in sides:
        breaks |= np.diff(index) != 1
        if per_row > 1:  # rows may lie apart
            breaks |= index[1:] % per_row == 0
    cuts = [0, *(np.flatnonzero(breaks) + 1).tolist(), length]
    yield from pairwise(cuts)


def _run(pages: torch.Tensor, first: int, count: int) -> torch.Tensor:
    per_row = pages.shape[1]
    if per_row == 1:
        return pages[first : first + count, 0]
    row, inside = divmod(first, per_row)
    return pages[row, inside : inside + count]

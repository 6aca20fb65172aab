"""Requests laid out in a paged KV cache, and the inputs that tell an operator where they are.

Shape letters are those of `vllm_npu_runtime.ops`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

# What stands in the cache where nobody wrote. An operator that reads too far is far off.
GARBAGE = 30.0


@dataclass(frozen=True)
class Geometry:
    """Sizes of an attention program.

    Attributes:
        block_size: tokens in a block.
        tokens: rows of a paged program, and of a gather program's prefill chunk.
        rows: requests in one run.
        length: most tokens of a request.
        heads: query heads.
        groups: key/value heads.
        size: of a head.
    """

    block_size: int
    tokens: int = 16
    rows: int = 4
    length: int = 64
    heads: int = 4
    groups: int = 2
    size: int = 32

    @property
    def width(self) -> int:
        """Blocks that a request may have."""
        return -(-self.length // self.block_size)

    @property
    def blocks(self) -> int:
        """Blocks of the cache; block 0 is nobody's."""
        return 1 + self.rows * self.width + 3

    def new_cache(self, dtype: torch.dtype, garbage: float = GARBAGE) -> torch.Tensor:
        """A cache of one layer that nobody has written to, with that number everywhere."""
        shape = (self.blocks, self.groups, self.block_size, 2 * self.size)
        return torch.full(shape, garbage).to(dtype)


class Span(NamedTuple):
    """The tokens begin … end - 1 of a request, which one run brings."""

    request: int
    begin: int
    end: int


class Blocks:
    """Which blocks each request has: any, in any order.

    Args:
        geometry: sizes.
        seed: of the order.
    """

    def __init__(self, geometry: Geometry, seed: int = 0) -> None:
        self.geometry = geometry
        free = list(range(1, geometry.blocks))
        random.Random(seed).shuffle(free)
        width = geometry.width
        self.tables = [free[i * width : (i + 1) * width] for i in range(geometry.rows)]

    def slots(self, span: Span) -> list[int]:
        """The slot of each token."""
        size = self.geometry.block_size
        table = self.tables[span.request]
        return [table[at // size] * size + at % size for at in range(span.begin, span.end)]

    def paged_inputs(
        self, spans: Sequence[Span], padded_to: Geometry | None = None
    ) -> dict[str, torch.Tensor]:
        """Inputs of `paged_attention` beside query, key and value.

        Args:
            spans: what the run brings.
            padded_to: has the program's tokens and rows, where they aren't those of `geometry`.
        """
        sizes = padded_to or self.geometry
        tokens, rows = sizes.tokens, sizes.rows
        slots = [slot for span in spans for slot in self.slots(span)]
        starts = [0]
        for span in spans:
            starts.append(starts[-1] + span.end - span.begin)
        starts += starts[-1:] * (rows - len(spans))
        return {
            "block_table": self._table(spans, rows),
            "slot_mapping": torch.tensor(slots + [-1] * (tokens - len(slots))),
            "query_start_loc": torch.tensor(starts, dtype=torch.int32),
            "seq_lens": _padded([span.end for span in spans], rows),
        }

    def gather_inputs(self, spans: Sequence[Span], rows: int) -> dict[str, torch.Tensor]:
        """Inputs of `gather_attention` beside query, key and value; padded."""
        return {
            "block_table": self._table(spans, rows),
            "context_lens": _padded([span.begin for span in spans], rows),
        }

    def _table(self, spans: Sequence[Span], rows: int) -> torch.Tensor:
        table = torch.zeros(rows, self.geometry.width, dtype=torch.int32)
        for row, span in enumerate(spans):
            table[row] = torch.tensor(self.tables[span.request])
        return table


def write(
    cache: torch.Tensor, slots: Sequence[int], key: torch.Tensor, value: torch.Tensor
) -> None:
    """Write `[T, G, D]` keys and values as the layout "NHC" wants them, token by token."""
    block_size, size = cache.shape[2], key.shape[2]
    for row, slot in enumerate(slots):
        entry = cache[slot // block_size, :, slot % block_size]
        entry[:, :size] = key[row].to(cache.dtype)
        entry[:, size:] = value[row].to(cache.dtype)


def _padded(numbers: Sequence[int], count: int) -> torch.Tensor:
    return torch.tensor([*numbers, *[0] * (count - len(numbers))], dtype=torch.int32)

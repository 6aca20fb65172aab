"""Plan a step: which graphs run, in which order, on which tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vllm_npu_platform.graph.buckets import fitting
from vllm_npu_platform.graph.shapes import Shape, Shapes


@dataclass(frozen=True)
class Batch:
    """What one step brings, on the host.

    Attributes:
        query_start_loc: `[R + 1]`: where each request begins among the tokens.
        seq_lens: `[R]`: tokens of a request in the cache after the step.
        block_tables: by group of layers, `[R, M]`.
        slot_mappings: by group, `[T]`.
        block_sizes: by group, in tokens.
    """

    query_start_loc: np.ndarray
    seq_lens: np.ndarray
    block_tables: tuple[np.ndarray, ...]
    slot_mappings: tuple[np.ndarray, ...]
    block_sizes: tuple[int, ...]

    @property
    def num_requests(self) -> int:
        """Requests in the step."""
        return len(self.seq_lens)

    @property
    def num_tokens(self) -> int:
        """Tokens in the step."""
        return int(self.query_start_loc[-1])


@dataclass(frozen=True)
class Run:
    """One run of a graph.

    Attributes:
        shape: the bucket.
        tokens: which of the step's tokens: a slice, or indices.
        requests: which of the step's requests: a slice, or indices.
        num_tokens: how many tokens are real.
        num_requests: how many requests are real.
        context: tokens that the first request has in the cache before this run (gather contract).
    """

    shape: Shape
    tokens: slice | np.ndarray
    requests: slice | np.ndarray
    num_tokens: int
    num_requests: int
    context: int = 0


def plan(batch: Batch, shapes: Shapes) -> Iterator[Run]:
    """The runs of a step, in an order in which each finds its context in the cache."""
    if shapes.paged:
        count = batch.num_tokens
        shape = shapes.paged[fitting(tuple(shapes.paged), count)]
        yield Run(shape, slice(0, count), slice(0, batch.num_requests), count, batch.num_requests)
    else:
        yield from _gather(batch, shapes)


def _gather(batch: Batch, shapes: Shapes) -> Iterator[Run]:
    lengths = np.diff(batch.query_start_loc)
    contexts = batch.seq_lens - lengths
    single = lengths == 1 if shapes.decode else np.zeros(len(lengths), dtype=bool)
    # Requests that read what another writes in this very step come after it, one at a time: a
    # shared prefix may still be on its way. What is read lies before what is written later, so
    # the order of contexts is an order of reading.
    late = _reads_what_is_written(batch, lengths, contexts)
    early = np.flatnonzero(single & ~late)
    yield from _decode_runs(batch, shapes, early)
    for request in np.argsort(contexts, kind="stable"):
        if late[request] or not single[request]:
            yield from _chunk_runs(batch, shapes, int(request), int(contexts[request]))


def _decode_runs(batch: Batch, shapes: Shapes, requests: np.ndarray) -> Iterator[Run]:
    if not len(requests):
        return
    sizes = tuple(shapes.decode)
    for begin in range(0, len(requests), sizes[-1]):
        part = requests[begin : begin + sizes[-1]]
        shape = shapes.decode[fitting(sizes, len(part))]
        context = int(batch.seq_lens[part[0]]) - 1
        yield Run(shape, batch.query_start_loc[part], part, len(part), len(part), context)


def _chunk_runs(batch: Batch, shapes: Shapes, request: int, context: int) -> Iterator[Run]:
    begin, end = (int(batch.query_start_loc[request + i]) for i in (0, 1))
    sizes = tuple(shapes.chunk)
    rows = slice(request, request + 1)
    for first in range(begin, end, sizes[-1]):
        count = min(sizes[-1], end - first)
        shape = shapes.chunk[fitting(sizes, count)]
        yield Run(shape, slice(first, first + count), rows, count, 1, context + first - begin)


def _reads_what_is_written(batch: Batch, lengths: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    """Which requests have a block in their context that another request writes in this step."""
    late = np.zeros(batch.num_requests, dtype=bool)
    if batch.num_requests < 2:
        return late
    rows = np.arange(batch.num_requests)
    owners = np.repeat(rows, lengths)
    groups = zip(batch.block_tables, batch.slot_mappings, batch.block_sizes, strict=True)
    for table, slots, size in groups:
        real = slots[: len(owners)] >= 0
        blocks = -(-int(contexts.max()) // size)
        if not blocks or not real.any():
            continue
        read = table[:, :blocks]
        written = slots[: len(owners)][real] // size
        writer = np.full(max(int(read.max()), int(written.max())) + 1, -1)
        writer[written] = owners[real]
        by = writer[read]
        in_context = np.arange(blocks) * size < contexts[:, None]
        late |= (in_context & (by >= 0) & (by != rows[:, None])).any(axis=1)
    return late

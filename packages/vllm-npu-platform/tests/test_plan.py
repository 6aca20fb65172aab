"""Plans: which graphs a step runs, in which order, on which tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vllm_npu_platform.graph.plan import Batch, Run, plan
from vllm_npu_platform.graph.shapes import Shape, Shapes
from vllm_npu_runtime.drivers.base import KVContract

MakeBatch = Callable[..., Batch]
BLOCK = 4

PAGED = Shapes({size: Shape(KVContract.PAGED, size, min(size, 8)) for size in (8, 64)}, {}, {})


def gather(decode: tuple[int, ...] = (2, 4), chunk: tuple[int, ...] = (4, 16)) -> Shapes:
    return Shapes(
        {},
        {size: Shape(KVContract.GATHER, size, size) for size in decode},
        {size: Shape(KVContract.GATHER, size, 1) for size in chunk},
    )


def tokens_of(run: Run, batch: Batch) -> list[int]:
    return np.arange(batch.num_tokens)[run.tokens].tolist()


def requests_of(run: Run, batch: Batch) -> list[int]:
    return np.arange(batch.num_requests)[run.requests].tolist()


def named(batch: Batch, shapes: Shapes) -> list[tuple[str, list[int]]]:
    return [(str(run.shape), requests_of(run, batch)) for run in plan(batch, shapes)]


def test_paged_mixes_prefill_and_decode_in_one_run(make_batch: MakeBatch) -> None:
    batch = make_batch([(9, 1), (0, 20), (4, 4)])
    (run,) = plan(batch, PAGED)
    assert (str(run.shape), run.num_tokens, run.num_requests) == ("tokens=64", 25, 3)
    assert tokens_of(run, batch) == list(range(25))


def test_decodes_run_together(make_batch: MakeBatch) -> None:
    assert named(make_batch([(5, 1), (9, 1), (3, 1)]), gather()) == [("decode=4", [0, 1, 2])]


def test_more_decodes_than_the_largest_bucket_are_split(make_batch: MakeBatch) -> None:
    batch = make_batch([(5 + row, 1) for row in range(9)])
    assert named(batch, gather()) == [
        ("decode=4", [0, 1, 2, 3]),
        ("decode=4", [4, 5, 6, 7]),
        ("decode=2", [8]),
    ]


def test_decodes_are_picked_from_between_prefills(make_batch: MakeBatch) -> None:
    batch = make_batch([(5, 1), (0, 7), (9, 1)])
    first, *_ = plan(batch, gather())
    assert requests_of(first, batch) == [0, 2]
    assert tokens_of(first, batch) == [0, 8]


def test_a_long_prompt_is_read_in_chunks_each_after_its_context(make_batch: MakeBatch) -> None:
    batch = make_batch([(10, 37)])
    runs = list(plan(batch, gather()))
    assert [str(run.shape) for run in runs] == ["chunk=16", "chunk=16", "chunk=16"]
    assert [run.num_tokens for run in runs] == [16, 16, 5]
    assert [run.context for run in runs] == [10, 26, 42]


def test_a_short_last_chunk_takes_a_small_bucket(make_batch: MakeBatch) -> None:
    assert [name for name, _ in named(make_batch([(0, 19)]), gather())] == ["chunk=16", "chunk=4"]


def test_a_prompt_of_one_token_runs_with_the_decodes(make_batch: MakeBatch) -> None:
    assert named(make_batch([(0, 1), (8, 1)]), gather()) == [("decode=2", [0, 1])]


def test_an_encoder_reads_each_prompt_whole(make_batch: MakeBatch) -> None:
    shapes = gather(decode=(), chunk=(8, 32))
    batch = make_batch([(0, 20), (0, 1), (0, 8)])
    assert named(batch, shapes) == [("chunk=32", [0]), ("chunk=8", [1]), ("chunk=8", [2])]


def test_who_reads_a_prefix_written_in_this_step_runs_after_the_writer(
    make_batch: MakeBatch,
) -> None:
    # Request 0 reads the block that request 1 writes.
    batch = make_batch([(4, 3), (0, 6)], tables=[[1, 9], [1, 2]])
    assert [rows for _, rows in named(batch, gather())] == [[1], [0]]


def test_a_decode_that_fills_a_block_runs_before_its_reader(make_batch: MakeBatch) -> None:
    # Request 0's single token completes block 1, which request 1 already shares.
    batch = make_batch([(3, 1), (4, 1)], tables=[[1], [1, 2]])
    assert named(batch, gather()) == [("decode=2", [0]), ("chunk=4", [1])]


def test_layers_with_other_block_tables_count_as_well(make_batch: MakeBatch) -> None:
    apart = make_batch([(4, 3), (0, 6)])
    shared = make_batch([(4, 3), (0, 6)], tables=[[1, 9], [1, 2]])
    batch = Batch(
        apart.query_start_loc,
        apart.seq_lens,
        apart.block_tables + shared.block_tables,
        apart.slot_mappings + shared.slot_mappings,
        (BLOCK, BLOCK),
    )
    assert [rows for _, rows in named(batch, gather())] == [[1], [0]]


def test_padding_slots_write_nothing(make_batch: MakeBatch) -> None:
    # Layers whose window has passed a token give it slot -1; nobody waits for those.
    batch = make_batch([(4, 1), (0, 1)], tables=[[9, 2], [1]])
    batch.slot_mappings[0][:] = -1
    assert named(batch, gather()) == [("decode=2", [0, 1])]


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[int, int, list[int]]]:
    """Requests as (context, new tokens, block table), sharing prefixes as vLLM's cache would.

    A request may begin with full blocks of an earlier one, whether those were full before this
    step or become so in it.
    """
    requests: list[tuple[int, int, list[int]]] = []
    free = iter(range(1, 10_000))
    for row in range(draw(st.integers(1, 7))):
        shared: list[int] = []
        if row:
            context, new, table = requests[draw(st.integers(0, row - 1))]
            shared = table[: draw(st.integers(0, (context + new) // BLOCK))]
        own = 0 if shared else draw(st.integers(0, 12))
        context = len(shared) * BLOCK + own
        new = draw(st.one_of(st.just(1), st.integers(1, 40)))
        count = -(-(context + new) // BLOCK)
        requests.append((context, new, shared + [next(free) for _ in range(count - len(shared))]))
    # The runner's order is not the scheduler's.
    return draw(st.permutations(requests))


@st.composite
def planned(draw: st.DrawFn) -> tuple[list[tuple[int, int, list[int]]], Shapes]:
    decode = draw(st.sampled_from([(2, 4), (1,), ()]))
    chunk = draw(st.sampled_from([(4, 16), (1, 3), (64,)]))
    return draw(steps()), gather(decode, chunk)


def test_every_run_reads_only_what_was_written_before(make_batch: MakeBatch) -> None:
    @given(planned())
    def holds(case: tuple[list[tuple[int, int, list[int]]], Shapes]) -> None:
        requests, shapes = case
        batch = make_batch([(c, n) for c, n, _ in requests], BLOCK, [t for *_, t in requests])
        (table,), (slots,) = batch.block_tables, batch.slot_mappings
        pending = set(slots.tolist())
        for run in plan(batch, shapes):
            rows = requests_of(run, batch)
            alone = run.shape.requests == 1
            contexts = [run.context] if alone else (batch.seq_lens[rows] - 1).tolist()
            for row, context in zip(rows, contexts, strict=True):
                positions = np.arange(context)
                read = table[row][positions // BLOCK] * BLOCK + positions % BLOCK
                assert pending.isdisjoint(read.tolist())
            pending -= set(slots[run.tokens].tolist())
        assert not pending

    holds()


def test_every_token_runs_once_in_a_bucket_that_holds_it(make_batch: MakeBatch) -> None:
    @given(planned())
    def holds(case: tuple[list[tuple[int, int, list[int]]], Shapes]) -> None:
        requests, shapes = case
        batch = make_batch([(c, n) for c, n, _ in requests], BLOCK, [t for *_, t in requests])
        runs = list(plan(batch, shapes))
        assert sorted(t for run in runs for t in tokens_of(run, batch)) == [
            *range(batch.num_tokens)
        ]
        for run in runs:
            assert len(tokens_of(run, batch)) == run.num_tokens <= run.shape.tokens
            assert len(requests_of(run, batch)) == run.num_requests <= run.shape.requests

    holds()

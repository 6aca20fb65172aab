"""Buffers: a step's values get in, and all around them is padding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from vllm_npu_platform.attention.metadata import GatherMetadata, PagedMetadata
from vllm_npu_platform.graph.buffers import Buffers, InputSpec, LayerGroup, Views
from vllm_npu_platform.graph.plan import Batch, Run
from vllm_npu_platform.graph.shapes import Shape
from vllm_npu_runtime.drivers.base import KVContract

MakeBatch = Callable[..., Batch]
INPUTS = [
    InputSpec("positions", torch.int64),
    InputSpec("inputs_embeds", torch.float32, (3,)),
]
GROUPS = [LayerGroup(("a", "b"), 4, 6)]


@pytest.fixture
def buffers() -> Buffers:
    """Left dirty by an earlier run, as they always are."""
    buffers = Buffers(INPUTS, GROUPS, tokens=16, requests=4)
    views = buffers.views(Shape(KVContract.PAGED, 16, 4))
    tensors = [*views.inputs.values(), *views.tables, *views.slots]
    for tensor in [*tensors, views.query_start_loc, views.lens]:
        tensor.fill_(77)
    return buffers


def filled(buffers: Buffers, run: Run, batch: Batch) -> Views:
    views = buffers.views(run.shape)
    views.fill(run, batch, inputs_of(batch))
    return views


def inputs_of(batch: Batch) -> dict[str, torch.Tensor]:
    count = batch.num_tokens
    return {
        "positions": torch.arange(count) + 100,
        "inputs_embeds": torch.arange(count * 3.0).view(count, 3) + 1,
    }


def wide(batch: Batch) -> Batch:
    """With a block table of the buffers' width, as vLLM's is."""
    table = np.zeros((batch.num_requests, GROUPS[0].table_width), dtype=np.int32)
    width = min(table.shape[1], batch.block_tables[0].shape[1])
    table[:, :width] = batch.block_tables[0][:, :width]
    return Batch(
        batch.query_start_loc, batch.seq_lens, (table,), batch.slot_mappings, batch.block_sizes
    )


def test_a_paged_run_is_padded_with_requests_of_no_token(
    buffers: Buffers, make_batch: MakeBatch
) -> None:
    batch = wide(make_batch([(5, 1), (0, 4)]))
    run = Run(Shape(KVContract.PAGED, 8, 4), slice(0, 5), slice(0, 2), 5, 2)
    views = filled(buffers, run, batch)
    assert views.inputs["positions"].tolist() == [100, 101, 102, 103, 104, 0, 0, 0]
    assert views.inputs["inputs_embeds"][5:].count_nonzero() == 0
    assert views.inputs["inputs_embeds"][:5].equal(inputs_of(batch)["inputs_embeds"])
    assert views.slots[0].tolist() == [*batch.slot_mappings[0].tolist(), -1, -1, -1]
    assert views.query_start_loc.tolist() == [0, 1, 5, 5, 5]
    assert views.lens.tolist() == [6, 4, 0, 0]
    assert views.tables[0][:2].tolist() == batch.block_tables[0].tolist()
    assert views.tables[0][2:].count_nonzero() == 0


def test_a_decode_run_picks_its_requests(buffers: Buffers, make_batch: MakeBatch) -> None:
    batch = wide(make_batch([(5, 1), (0, 4), (9, 1)]))
    rows = np.array([0, 2])
    run = Run(Shape(KVContract.GATHER, 4, 4), batch.query_start_loc[rows], rows, 2, 2, 5)
    views = filled(buffers, run, batch)
    assert views.inputs["positions"].tolist() == [100, 105, 0, 0]
    assert views.slots[0].tolist() == [*batch.slot_mappings[0][[0, 5]].tolist(), -1, -1]
    assert views.lens.tolist() == [5, 9, 0, 0]
    assert views.query_start_loc.tolist() == [0, 1, 2, 2, 2]
    assert views.tables[0][:2].tolist() == batch.block_tables[0][rows].tolist()
    assert views.tables[0][2:].count_nonzero() == 0


def test_a_chunk_run_has_its_own_context(buffers: Buffers, make_batch: MakeBatch) -> None:
    batch = wide(make_batch([(5, 1), (2, 9)]))
    run = Run(Shape(KVContract.GATHER, 8, 1), slice(5, 10), slice(1, 2), 5, 1, context=6)
    views = filled(buffers, run, batch)
    assert views.inputs["positions"].tolist() == [105, 106, 107, 108, 109, 0, 0, 0]
    assert views.lens.tolist() == [6]
    assert views.query_start_loc.tolist() == [0, 5]
    assert views.tables[0].tolist() == batch.block_tables[0][1:].tolist()


def test_an_input_that_is_left_out_is_zero(buffers: Buffers, make_batch: MakeBatch) -> None:
    batch = wide(make_batch([(5, 1)]))
    run = Run(Shape(KVContract.PAGED, 8, 4), slice(0, 1), slice(0, 1), 1, 1)
    views = buffers.views(run.shape)
    views.fill(run, batch, {"positions": torch.tensor([100])})
    assert views.inputs["inputs_embeds"].count_nonzero() == 0


def test_cleared_views_are_nothing_but_padding(buffers: Buffers) -> None:
    views = buffers.views(Shape(KVContract.PAGED, 8, 4))
    views.clear()
    for tensor in (*views.inputs.values(), *views.tables, views.query_start_loc, views.lens):
        assert tensor.count_nonzero() == 0
    assert views.slots[0].tolist() == [-1] * 8


def test_buckets_share_memory(buffers: Buffers) -> None:
    small, large = (buffers.views(Shape(KVContract.PAGED, n, 2)) for n in (2, 16))
    for one, other in zip(small.named(), large.named(), strict=True):
        assert one.name == other.name
        assert one.tensor.data_ptr() == other.tensor.data_ptr()


@pytest.mark.parametrize(
    ("contract", "kind"), [(KVContract.PAGED, PagedMetadata), (KVContract.GATHER, GatherMetadata)]
)
def test_layers_of_a_group_share_metadata(
    buffers: Buffers, contract: KVContract, kind: type
) -> None:
    metadata = buffers.views(Shape(contract, 4, 4)).metadata()
    assert isinstance(metadata["a"], kind)
    assert metadata["a"] is metadata["b"]

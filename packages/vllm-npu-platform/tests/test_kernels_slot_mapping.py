"""Slot mapping, against a loop over tokens."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_npu_platform.kernels.slot_mapping import compute_slot_mapping
from vllm_npu_runtime.errors import ConfigurationError

PAD = -1
UNTOUCHED = -7


def launch(
    counts: list[int], positions: list[int], table: torch.Tensor, block_size: int, **changed: Any
) -> torch.Tensor:
    begins = [sum(counts[:index]) for index in range(len(counts) + 1)]
    num_tokens = len(positions)
    mapping = torch.full((num_tokens + 5,), UNTOUCHED, dtype=torch.int64)
    arguments = {
        "num_tokens": num_tokens,
        "max_num_tokens": num_tokens + 3,
        "query_start_loc_ptr": torch.tensor(begins, dtype=torch.int32),
        "positions_ptr": torch.tensor(positions, dtype=torch.int64),
        "block_table_ptr": table,
        "block_table_stride": table.stride(0),
        "slot_mapping_ptr": mapping,
        "KV_CACHE_BLOCK_SIZE": block_size,
        "TOTAL_CP_WORLD_SIZE": 1,
        "TOTAL_CP_RANK": 0,
        "CP_KV_CACHE_INTERLEAVE_SIZE": 1,
        "PAD_ID": PAD,
        "BLOCK_SIZE": 1024,
    }
    compute_slot_mapping(**(arguments | changed))
    return mapping


def slots_one_by_one(
    counts: list[int], positions: list[int], table: torch.Tensor, block_size: int
) -> list[int]:
    slots, token = [], 0
    for request, count in enumerate(counts):
        for _ in range(count):
            block = int(table[request, positions[token] // block_size])
            slots.append(block * block_size + positions[token] % block_size)
            token += 1
    return slots + [PAD] * 3 + [UNTOUCHED] * 2


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[int], torch.Tensor, int]:
    block_size = draw(st.sampled_from([1, 3, 16, 128]))
    columns = draw(st.integers(1, 6))
    counts = draw(st.lists(st.integers(0, min(7, columns * block_size)), min_size=1, max_size=9))
    positions = []
    for count in counts:
        computed = draw(st.integers(0, columns * block_size - count))
        positions += range(computed, computed + count)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # The table has rows for more requests than there are.
    shape = (len(counts) + 2, columns)
    table = torch.randint(0, 1000, shape, generator=generator, dtype=torch.int32)
    return counts, positions, table, block_size


@settings(deadline=None)
@given(batches())
def test_prefill_decode_and_empty_requests(
    batch: tuple[list[int], list[int], torch.Tensor, int],
) -> None:
    assert launch(*batch).tolist() == slots_one_by_one(*batch)


def test_rows_of_a_wider_table() -> None:
    table = torch.arange(40, dtype=torch.int32).reshape(4, 10)[:, :3]
    batch = ([2, 1], [5, 6, 0], table, 4)
    assert launch(*batch).tolist() == slots_one_by_one(*batch)


def test_slots_beyond_int32() -> None:
    table = torch.full((1, 1), 2**30, dtype=torch.int32)
    assert launch([1], [127], table, 128)[0] == 2**37 + 127


def test_a_position_without_a_block_is_an_error() -> None:
    table = torch.zeros(2, 2, dtype=torch.int32)
    with pytest.raises(IndexError):
        launch([1], [32], table, 16)


@pytest.mark.parametrize("world_size", [2, 8])
def test_context_parallelism_is_refused(world_size: int) -> None:
    table = torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(ConfigurationError, match="decode-context-parallel-size 1"):
        launch([1], [0], table, 16, TOTAL_CP_WORLD_SIZE=world_size)

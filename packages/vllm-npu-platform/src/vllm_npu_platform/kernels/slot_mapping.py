"""Slot mapping: where in the KV cache each token of a step is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    import torch


def compute_slot_mapping(
    num_tokens: int,
    max_num_tokens: int,
    query_start_loc_ptr: torch.Tensor,
    positions_ptr: torch.Tensor,
    block_table_ptr: torch.Tensor,
    block_table_stride: int,
    slot_mapping_ptr: torch.Tensor,
    KV_CACHE_BLOCK_SIZE: int,
    TOTAL_CP_WORLD_SIZE: int,
    TOTAL_CP_RANK: int,
    CP_KV_CACHE_INTERLEAVE_SIZE: int,
    PAD_ID: int,
    BLOCK_SIZE: int,
) -> None:
    """Slot = block × block size + place in the block. Runs in every step.

    Args:
        num_tokens: tokens of the step,
        max_num_tokens: and the most that a step can have.
        query_start_loc_ptr: where each request's tokens begin, int32 `[requests + 1]`.
        positions_ptr: of the tokens in their sequences, int64 `[num_tokens]`.
        block_table_ptr: int32 `[requests or more, blocks]`.
        block_table_stride: of its rows; the tensor knows it.
        slot_mapping_ptr: int64 `[max_num_tokens]`; written.
        KV_CACHE_BLOCK_SIZE: tokens per block.
        TOTAL_CP_WORLD_SIZE: devices that share a sequence; 1.
        TOTAL_CP_RANK: which of them; 0.
        CP_KV_CACHE_INTERLEAVE_SIZE: how tokens alternate between them; irrelevant with one.
        PAD_ID: the slot of all places from num_tokens on.
        BLOCK_SIZE: ignored, as it only tiles the work.

    Raises:
        ConfigurationError: a sequence is to be shared by several devices.
    """
    if TOTAL_CP_WORLD_SIZE != 1:
        raise ConfigurationError(
            f"Context parallelism over {TOTAL_CP_WORLD_SIZE} devices: a sequence's KV cache is on "
            "one device here. Use --decode-context-parallel-size 1 and "
            "--prefill-context-parallel-size 1."
        )
    begins = query_start_loc_ptr.numpy()
    begin, end = int(begins[0]), int(begins[-1])
    counts = begins[1:] - begins[:-1]
    rows = np.repeat(np.arange(len(counts)), counts)
    positions = positions_ptr.numpy()[begin:end]
    columns = positions // KV_CACHE_BLOCK_SIZE
    blocks = block_table_ptr.numpy()[rows, columns]
    mapping = slot_mapping_ptr.numpy()
    slots = mapping[begin:end]
    # (block - column) × size + position is block × size + position % size, with an operation
    # less. Only the blocks are int32; a large cache has slots beyond that.
    np.subtract(blocks, columns, out=slots)
    slots *= KV_CACHE_BLOCK_SIZE
    slots += positions
    mapping[num_tokens:max_num_tokens] = PAD_ID

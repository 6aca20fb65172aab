"""Inputs of the draft model's first step after the target's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vllm_npu_platform.kernels.ragged import rows_and_places

if TYPE_CHECKING:
    import torch


def make_room_for_drafts(
    target_token_ids_ptr: torch.Tensor,
    target_positions_ptr: torch.Tensor,
    next_token_ids_ptr: torch.Tensor,
    out_input_ids_ptr: torch.Tensor,
    out_positions_ptr: torch.Tensor,
    out_is_rejected_token_mask_ptr: torch.Tensor,
    out_is_masked_token_mask_ptr: torch.Tensor,
    out_new_token_indices_ptr: torch.Tensor,
    out_hidden_state_mapping_ptr: torch.Tensor,
    query_start_loc_ptr: torch.Tensor,
    query_end_loc_ptr: torch.Tensor,
    padding_token_id: int,
    parallel_drafting_token_id: int,
    total_input_tokens: int,
    num_padding_slots_per_request: int,
    shift_input_ids: bool,
    BLOCK_SIZE_TOKENS: int,
) -> None:
    """Copy the target's tokens, with room for new ones in each request.

    A request's row of tokens becomes: those that the target accepted, the next token, slots
    for tokens that are drafted at once (if there are more slots than one), and padding for the
    rejected ones. Positions count on from the first.

    Args:
        target_token_ids_ptr: int32 `[total_input_tokens]`.
        target_positions_ptr: int64 `[total_input_tokens]`.
        next_token_ids_ptr: int32 `[requests]`.
        out_input_ids_ptr: int32 `[output tokens or more]`; written, as are the others of this
            length.
        out_positions_ptr: int64; 0 for rejected tokens.
        out_is_rejected_token_mask_ptr: bool.
        out_is_masked_token_mask_ptr: bool; slots of tokens that are drafted at once.
        out_new_token_indices_ptr: where next token and drafted slots went, int32
            `[requests × num_padding_slots_per_request]`; written.
        out_hidden_state_mapping_ptr: where each input token went, int32
            `[total_input_tokens]`; written with shift_input_ids only.
        query_start_loc_ptr: int32 `[requests + 1]`.
        query_end_loc_ptr: each request's last accepted token, int32 `[requests]`.
        padding_token_id: for rejected tokens.
        parallel_drafting_token_id: for tokens that are drafted at once.
        total_input_tokens: tokens that the target ran on.
        num_padding_slots_per_request: the next token's slot and those drafted at once.
        shift_input_ids: leave out each request's first token, as for a draft model that reads
            the target's hidden states and is one token ahead of them.
        BLOCK_SIZE_TOKENS: ignored, as it only tiles the work.
    """
    requests = len(query_end_loc_ptr)
    begins = query_start_loc_ptr.numpy()[: requests + 1].astype(np.int64)
    ends = query_end_loc_ptr.numpy()
    slots, shift = num_padding_slots_per_request, int(shift_input_ids)
    # Every request grows by the same number of tokens, so the output has no gaps: it begins
    # where the input does, and needs no indices.
    kept = ends - begins[:-1] + 1 - shift
    rows, places = rows_and_places(np.diff(begins) + slots - shift)
    first = int(begins[0])
    output = slice(first, first + len(rows))

    beyond = places - kept[rows]  # 0 is the next token; its slots come after, then the rejected.
    rejected = beyond >= slots
    drafted = (beyond > 0) & ~rejected
    limit = total_input_tokens - 1  # Places that aren't kept may lie beyond it.
    sources = np.minimum(begins[rows] + places + shift, limit)
    tokens = target_token_ids_ptr.numpy()[sources]
    tokens = np.where(beyond == 0, next_token_ids_ptr.numpy()[rows], tokens)
    tokens[drafted] = parallel_drafting_token_id
    tokens[rejected] = padding_token_id
    starts = target_positions_ptr.numpy()[np.minimum(begins[:-1], limit)]
    positions = starts[rows] + places
    positions[rejected] = 0

    out_input_ids_ptr.numpy()[output] = tokens
    out_positions_ptr.numpy()[output] = positions
    out_is_rejected_token_mask_ptr.numpy()[output] = rejected
    out_is_masked_token_mask_ptr.numpy()[output] = drafted
    new = np.flatnonzero((beyond >= 0) & ~rejected)
    out_new_token_indices_ptr.numpy()[rows[new] * slots + beyond[new]] = first + new
    if shift_input_ids:
        rows, _ = rows_and_places(np.diff(begins))
        inputs = slice(first, first + len(rows))
        moved = np.arange(inputs.start, inputs.stop) + rows * (slots - shift)
        out_hidden_state_mapping_ptr.numpy()[inputs] = moved

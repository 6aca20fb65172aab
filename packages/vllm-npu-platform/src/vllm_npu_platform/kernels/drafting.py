"""What a draft model needs to know between its steps and the target's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vllm_npu_platform.kernels.ragged import lengths

if TYPE_CHECKING:
    import torch

REJECTED = -1
"""Stands for a sampled token that was rejected."""


def advance_one_token(
    positions_ptr: torch.Tensor,
    block_table_ptr: torch.Tensor,
    block_table_stride: int,
    seq_lens_ptr: torch.Tensor,
    out_clamped_positions_ptr: torch.Tensor,
    out_slot_mapping_ptr: torch.Tensor,
    block_size: int,
    max_model_len: int,
    n_blocks_per_req: int,
    PAD_ID: int,
    batch_size: int,
) -> None:
    """Move every request on by one token, for the next step of the draft model.

    A request that would reach max_model_len is taken back to position 0 and length 1, and
    its slot is PAD_ID: its drafts won't be used, and must not touch the KV cache.

    Args:
        positions_ptr: of the last tokens, integers `[batch_size]`.
        block_table_ptr: int32 `[batch_size or more, n_blocks_per_req]`.
        block_table_stride: of its rows; the tensor knows it.
        seq_lens_ptr: int32 `[batch_size or more]`; read and written.
        out_clamped_positions_ptr: `[batch_size]`; written. May be positions_ptr itself.
        out_slot_mapping_ptr: int64 `[batch_size or more]`; written, with PAD_ID beyond
            batch_size.
        block_size: tokens per block.
        max_model_len: the first position that is too far.
        n_blocks_per_req: columns of the block table.
        PAD_ID: the slot of what isn't written.
        batch_size: requests.
    """
    positions = positions_ptr.numpy()[:batch_size] + 1
    too_far = positions >= max_model_len
    positions[too_far] = 0
    columns = positions // block_size
    np.minimum(columns, n_blocks_per_req - 1, out=columns)
    blocks = block_table_ptr.numpy()[np.arange(batch_size), columns]
    slots = np.multiply(blocks, block_size, dtype=np.int64)
    slots += positions % block_size
    slots[too_far] = PAD_ID

    mapping = out_slot_mapping_ptr.numpy()
    mapping[:batch_size] = slots
    mapping[batch_size:] = PAD_ID
    out_clamped_positions_ptr.numpy()[:batch_size] = positions
    seq_lens = seq_lens_ptr.numpy()[:batch_size]
    seq_lens += 1
    seq_lens[too_far] = 1
    np.minimum(seq_lens, max_model_len, out=seq_lens)


def find_last_accepted(
    cu_num_draft_tokens_ptr: torch.Tensor,
    valid_sampled_tokens_count_ptr: torch.Tensor,
    query_start_loc_gpu_ptr: torch.Tensor,
    token_indices_to_sample_ptr: torch.Tensor,
    num_rejected_tokens_gpu_ptr: torch.Tensor,
    num_reqs: int,
) -> None:
    """Find the last accepted token of each request among the tokens that the target ran on.

    Args:
        cu_num_draft_tokens_ptr: inclusive sums of the draft tokens, int32 `[num_reqs]`.
        valid_sampled_tokens_count_ptr: accepted tokens and the one sampled after them, int32
            `[num_reqs]`.
        query_start_loc_gpu_ptr: int32 `[num_reqs + 1]`.
        token_indices_to_sample_ptr: where the last accepted token is, int32 `[num_reqs]`;
            written.
        num_rejected_tokens_gpu_ptr: int32 `[num_reqs]`; written. 0 without draft tokens.
        num_reqs: requests.
    """
    drafted = lengths(cu_num_draft_tokens_ptr.numpy()[:num_reqs])
    rejected = drafted + 1 - valid_sampled_tokens_count_ptr.numpy()[:num_reqs]
    rejected[drafted <= 0] = 0
    ends = query_start_loc_gpu_ptr.numpy()[1 : num_reqs + 1]
    token_indices_to_sample_ptr.numpy()[:num_reqs] = ends - 1 - rejected
    num_rejected_tokens_gpu_ptr.numpy()[:num_reqs] = rejected


def choose_next_token(
    sampled_token_ids_ptr: torch.Tensor,
    discard_request_mask_ptr: torch.Tensor,
    backup_next_token_ids_ptr: torch.Tensor,
    next_token_ids_ptr: torch.Tensor,
    valid_sampled_tokens_count_ptr: torch.Tensor,
    vocab_size: int,
    num_sampled_tokens_per_req: int,
    num_reqs: int,
    stride_sampled_token_ids: int,
    BLOCK_SIZE_TOKENS: int,
) -> None:
    """Choose the token that drafting goes on from: the last that was sampled and not rejected.

    Args:
        sampled_token_ids_ptr: integers `[num_reqs, num_sampled_tokens_per_req]`; -1 is
            rejected, and vocab_size or more is no token, either.
        discard_request_mask_ptr: requests whose sampled tokens don't count, bool `[num_reqs
            or more]`.
        backup_next_token_ids_ptr: for requests without a sampled token, int32 `[num_reqs or
            more]`.
        next_token_ids_ptr: int32 `[num_reqs]`; written.
        valid_sampled_tokens_count_ptr: sampled tokens that count, int32 `[num_reqs]`; written.
        vocab_size: of the target.
        num_sampled_tokens_per_req: columns.
        num_reqs: requests.
        stride_sampled_token_ids: of the rows; the tensor knows it.
        BLOCK_SIZE_TOKENS: ignored, as it only tiles the work.
    """
    tokens = sampled_token_ids_ptr.numpy()[:num_reqs, :num_sampled_tokens_per_req]
    counted = (tokens != REJECTED) & (tokens < vocab_size)
    counted[discard_request_mask_ptr.numpy()[:num_reqs]] = False
    counts = counted.sum(axis=1)
    # The first maximum of the reversed row; if nothing counts, the choice below drops it.
    last = num_sampled_tokens_per_req - 1 - counted[:, ::-1].argmax(axis=1)
    chosen = tokens[np.arange(num_reqs), last]
    backup = backup_next_token_ids_ptr.numpy()[:num_reqs]
    next_token_ids_ptr.numpy()[:num_reqs] = np.where(counts > 0, chosen, backup)
    valid_sampled_tokens_count_ptr.numpy()[:num_reqs] = counts

"""Recovered tokens: what the target says in place of a draft token that it rejects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vllm_npu_platform.kernels.ragged import lengths, rows_and_places

if TYPE_CHECKING:
    import torch


def sample_recovered(
    output_token_ids_ptr: torch.Tensor,
    cu_num_draft_tokens_ptr: torch.Tensor,
    draft_token_ids_ptr: torch.Tensor,
    draft_probs_ptr: torch.Tensor | None,
    target_probs_ptr: torch.Tensor,
    inv_q_ptr: torch.Tensor,
    vocab_size: int,
    BLOCK_SIZE: int,
    NO_DRAFT_PROBS: bool,
    USE_FP64_GUMBEL: bool,
) -> None:
    """Draw from max(0, p_target - p_draft), for every draft token.

    The largest p / q, with q from an exponential distribution, is a draw from p; p need not
    add up to 1. Without the draft's probabilities, p_draft is 1 for the draft token itself.

    Args:
        output_token_ids_ptr: int32 `[tokens]`; written.
        cu_num_draft_tokens_ptr: inclusive sums of the draft tokens, int32 `[requests]`.
        draft_token_ids_ptr: int32 `[tokens]`; -1 is padding.
        draft_probs_ptr: float32 `[tokens, vocab_size]`, or None.
        target_probs_ptr: float32 `[tokens, vocab_size]`.
        inv_q_ptr: 1 / q, float32 or float64 `[requests, vocab_size]`.
        vocab_size: of the target.
        BLOCK_SIZE: ignored, as it only tiles the work.
        NO_DRAFT_PROBS: the draft has no probabilities, as from n-grams; draft_probs_ptr is None.
        USE_FP64_GUMBEL: inv_q is float64; its dtype says so.
    """
    output, target = output_token_ids_ptr.numpy(), target_probs_ptr.numpy()
    drafts, inverse = draft_token_ids_ptr.numpy(), inv_q_ptr.numpy()
    drafted = None if draft_probs_ptr is None else draft_probs_ptr.numpy()
    # Row by row, in buffers that fit a core's cache: quicker than all rows at once, and needs
    # no second copy of all probabilities.
    scores = np.empty(vocab_size, np.result_type(target, inverse))
    rest = np.empty(vocab_size, target.dtype)
    rows, _ = rows_and_places(lengths(cu_num_draft_tokens_ptr.numpy()))
    with np.errstate(invalid="ignore"):
        for token, row in enumerate(rows.tolist()):
            if drafted is None:
                np.multiply(target[token], inverse[row], out=scores)
                if drafts[token] >= 0:
                    scores[drafts[token]] = 0
            else:
                np.subtract(target[token], drafted[token], out=rest)
                np.maximum(rest, 0, out=rest)
                np.multiply(rest, inverse[row], out=scores)
            output[token] = _largest(scores)


def _largest(scores: np.ndarray) -> int:
    """The first index of the largest score. NaN counts as 0: it is 0 × inf, for a q of 0."""
    best = int(scores.argmax())
    if np.isnan(scores[best]):
        np.nan_to_num(scores, copy=False, nan=0.0, posinf=np.inf)
        best = int(scores.argmax())
    return best

"""Rejection sampling: how many draft tokens the target accepts (arXiv:2211.17192)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vllm_npu_platform.kernels.ragged import lengths, rows_and_places

if TYPE_CHECKING:
    import torch


def reject_greedy(
    output_token_ids_ptr: torch.Tensor,
    cu_num_draft_tokens_ptr: torch.Tensor,
    draft_token_ids_ptr: torch.Tensor,
    target_argmax_ptr: torch.Tensor,
    bonus_token_ids_ptr: torch.Tensor,
    is_greedy_ptr: torch.Tensor | None,
    max_spec_len: int,
    uniform_probs_ptr: torch.Tensor | None,
    synthetic_conditional_rates_ptr: torch.Tensor | None,
    SYNTHETIC_MODE: bool,
) -> None:
    """Accept draft tokens as long as the target would have chosen them, too.

    Args:
        output_token_ids_ptr: int32 `[requests, max_spec_len + 1]`; written up to the first
            rejected token, and for greedy requests only.
        cu_num_draft_tokens_ptr: inclusive sums of the draft tokens, int32 `[requests]`.
        draft_token_ids_ptr: int32 `[tokens]`; -1 is padding, and never accepted.
        target_argmax_ptr: the target's choices, int64 `[tokens]`.
        bonus_token_ids_ptr: the target's token after the last draft token, int64 `[requests]`
            or `[requests, 1]`.
        is_greedy_ptr: bool `[requests]`, or None if all requests are greedy.
        max_spec_len: the most draft tokens of a request.
        uniform_probs_ptr: random numbers, float64 `[tokens]`; for SYNTHETIC_MODE.
        synthetic_conditional_rates_ptr: by place, float32 `[max_spec_len or more]`.
        SYNTHETIC_MODE: accept at the given rates, whatever the target would have chosen.
    """
    verdict = _Verdict(cu_num_draft_tokens_ptr, draft_token_ids_ptr)
    target = target_argmax_ptr.numpy()[: verdict.num_tokens]
    if SYNTHETIC_MODE:
        assert uniform_probs_ptr is not None and synthetic_conditional_rates_ptr is not None
        accepted = verdict.at_rates(uniform_probs_ptr, synthetic_conditional_rates_ptr)
    else:
        accepted = verdict.drafts == target
    chosen = None if is_greedy_ptr is None else is_greedy_ptr.numpy()
    verdict.write(output_token_ids_ptr, accepted, target, bonus_token_ids_ptr, chosen)


def reject_random(
    output_token_ids_ptr: torch.Tensor,
    cu_num_draft_tokens_ptr: torch.Tensor,
    draft_token_ids_ptr: torch.Tensor,
    draft_probs_ptr: torch.Tensor | None,
    target_probs_ptr: torch.Tensor,
    bonus_token_ids_ptr: torch.Tensor,
    recovered_token_ids_ptr: torch.Tensor,
    uniform_probs_ptr: torch.Tensor,
    is_greedy_ptr: torch.Tensor,
    max_spec_len: int,
    vocab_size: int,
    synthetic_conditional_rates_ptr: torch.Tensor | None,
    NO_DRAFT_PROBS: bool,
    SYNTHETIC_MODE: bool,
) -> None:
    """Accept a draft token with probability min(1, p_target / p_draft).

    Args:
        output_token_ids_ptr: int32 `[requests, max_spec_len + 1]`; written up to the first
            rejected token, and for requests that aren't greedy only.
        cu_num_draft_tokens_ptr: inclusive sums of the draft tokens, int32 `[requests]`.
        draft_token_ids_ptr: int32 `[tokens]`; -1 is padding, and never accepted.
        draft_probs_ptr: float32 `[tokens, vocab_size]`, or None.
        target_probs_ptr: float32 `[tokens, vocab_size]`.
        bonus_token_ids_ptr: the target's token after the last draft token, int64 `[requests]`
            or `[requests, 1]`.
        recovered_token_ids_ptr: what stands for a rejected token, int32 `[tokens]`.
        uniform_probs_ptr: random numbers, float64 `[tokens]`.
        is_greedy_ptr: bool `[requests]`.
        max_spec_len: the most draft tokens of a request.
        vocab_size: of the target.
        synthetic_conditional_rates_ptr: by place, float32 `[max_spec_len or more]`, or None.
        NO_DRAFT_PROBS: the draft has no probabilities, as from n-grams; draft_probs_ptr is None,
            and they count as 1.
        SYNTHETIC_MODE: accept at the given rates, whatever the probabilities.
    """
    verdict = _Verdict(cu_num_draft_tokens_ptr, draft_token_ids_ptr)
    if SYNTHETIC_MODE:
        assert synthetic_conditional_rates_ptr is not None
        accepted = verdict.at_rates(uniform_probs_ptr, synthetic_conditional_rates_ptr)
    else:
        drafts = verdict.drafts
        tokens = np.arange(verdict.num_tokens)
        ratio = target_probs_ptr.numpy()[tokens, drafts]  # -1 picks a probability, not used.
        accepted = drafts >= 0
        if draft_probs_ptr is not None:
            drafted = draft_probs_ptr.numpy()[tokens, drafts]
            accepted &= drafted > 0  # It was drawn, so it can't be 0; rounding knows better.
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = ratio / drafted
        # The ratio is float32, the random number float64: as float32 it could round up to 1.
        accepted &= ratio >= uniform_probs_ptr.numpy()[: verdict.num_tokens]
    recovered = recovered_token_ids_ptr.numpy()[: verdict.num_tokens]
    chosen = ~is_greedy_ptr.numpy()
    verdict.write(output_token_ids_ptr, accepted, recovered, bonus_token_ids_ptr, chosen)


class _Verdict:
    """What follows from which draft tokens were accepted.

    Args:
        cu_num_draft_tokens: inclusive sums of the draft tokens, int32 `[requests]`.
        draft_token_ids: int32 `[tokens]`.
    """

    def __init__(self, cu_num_draft_tokens: torch.Tensor, draft_token_ids: torch.Tensor) -> None:
        self.counts = lengths(cu_num_draft_tokens.numpy())
        self.rows, self.places = rows_and_places(self.counts)
        self.num_tokens = len(self.rows)
        self.drafts = draft_token_ids.numpy()[: self.num_tokens]

    def at_rates(self, uniform_probs: torch.Tensor, rates: torch.Tensor) -> np.ndarray:
        """Tokens accepted at rates by place, bool `[tokens]`."""
        below = uniform_probs.numpy()[: self.num_tokens] < rates.numpy()[self.places]
        return below & (self.drafts >= 0)

    def write(
        self,
        output_token_ids: torch.Tensor,
        accepted: np.ndarray,
        instead: np.ndarray,
        bonus_token_ids: torch.Tensor,
        chosen: np.ndarray | None,
    ) -> None:
        """Write accepted tokens, and one of the target's after them.

        Args:
            output_token_ids: `[requests, most draft tokens + 1]`; the rest stays as it is.
            accepted: bool `[tokens]`.
            instead: what stands for the first token that isn't accepted, `[tokens]`.
            bonus_token_ids: what follows if all are accepted, `[requests]` or `[requests, 1]`.
            chosen: the requests to write, bool `[requests]`, or None for all.
        """
        output = output_token_ids.numpy()
        # One column more than draft tokens: it stays False, so each row has a first False.
        table = np.zeros(output.shape, np.bool_)
        table[self.rows, self.places] = accepted
        num_accepted = table.argmin(axis=1)
        bonus = num_accepted == self.counts
        written = self.places <= num_accepted[self.rows]
        if chosen is not None:
            bonus &= chosen
            written &= chosen[self.rows]
        tokens = np.where(accepted, self.drafts, instead)
        output[self.rows[written], self.places[written]] = tokens[written]
        output[bonus, num_accepted[bonus]] = bonus_token_ids.numpy().reshape(-1)[bonus]

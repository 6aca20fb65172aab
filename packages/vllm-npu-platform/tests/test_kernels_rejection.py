"""The kernels of rejection sampling, against loops over requests and draft tokens."""

from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_npu_platform.kernels.ragged import expand
from vllm_npu_platform.kernels.recovered import sample_recovered
from vllm_npu_platform.kernels.rejection import reject_greedy, reject_random

VOCAB = 7
PLACEHOLDER = -1
GREEDY, RANDOM, MIXED = "greedy", "random", "mixed"

counts_of_drafts = st.lists(st.integers(0, 5), min_size=1, max_size=8)
seeds = st.integers(0, 2**31)


def int32(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


class Batch:
    """Random draft tokens and everything that is known about them."""

    def __init__(self, counts: list[int], seed: int, who: str = MIXED) -> None:
        self.random = np.random.default_rng(seed)
        self.counts = counts
        self.cumulative = int32(list(accumulate(counts)))
        self.spans = list(pairwise([0, *accumulate(counts)]))
        self.tokens = sum(counts)
        self.max_spec_len = max([1, *counts])
        self.bonus = torch.arange(1000, 1000 + len(counts)).unsqueeze(1)
        # -1 is what pads a request with fewer drafts than others.
        self.drafts = int32(self.random.integers(-1, VOCAB, self.tokens).tolist())
        self.uniform = torch.from_numpy(self.random.random(self.tokens))
        self.rates = torch.from_numpy(self.random.random(self.max_spec_len).astype(np.float32))
        share = {GREEDY: 1.1, RANDOM: -0.1, MIXED: 0.5}[who]
        self.is_greedy = torch.from_numpy(self.random.random(len(counts)) < share)
        self.output = torch.full(
            (len(counts), self.max_spec_len + 1), PLACEHOLDER, dtype=torch.int32
        )

    def probabilities(self) -> torch.Tensor:
        """Float32 `[tokens, vocab]`; some are 0."""
        probs = self.random.random((self.tokens, VOCAB)).astype(np.float32)
        probs[self.random.random(probs.shape) < 0.2] = 0
        return torch.from_numpy(probs)


@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize("who", [None, GREEDY, RANDOM, MIXED])
@settings(deadline=None)
@given(counts=counts_of_drafts, seed=seeds)
def test_greedy(who: str | None, synthetic: bool, counts: list[int], seed: int) -> None:
    batch = Batch(counts, seed, who or GREEDY)
    target = batch.drafts.to(torch.int64)
    target[torch.from_numpy(batch.random.random(batch.tokens) < 0.3)] = VOCAB - 1
    target.clamp_(min=0)

    want = batch.output.tolist()
    for request, (begin, end) in enumerate(batch.spans):
        if not batch.is_greedy[request]:
            continue
        for place, token in enumerate(range(begin, end)):
            draft, choice = int(batch.drafts[token]), int(target[token])
            if synthetic:
                accepted = draft >= 0 and bool(batch.uniform[token] < batch.rates[place])
            else:
                accepted = draft == choice
            want[request][place] = draft if accepted else choice
            if not accepted:
                break
        else:
            want[request][end - begin] = int(batch.bonus[request])

    reject_greedy(
        output_token_ids_ptr=batch.output,
        cu_num_draft_tokens_ptr=batch.cumulative,
        draft_token_ids_ptr=batch.drafts,
        target_argmax_ptr=target,
        bonus_token_ids_ptr=batch.bonus,
        is_greedy_ptr=None if who is None else batch.is_greedy,
        max_spec_len=batch.max_spec_len,
        uniform_probs_ptr=batch.uniform if synthetic else None,
        synthetic_conditional_rates_ptr=batch.rates if synthetic else None,
        SYNTHETIC_MODE=synthetic,
    )
    assert batch.output.tolist() == want


@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize("with_draft_probs", [False, True])
@pytest.mark.parametrize("who", [GREEDY, RANDOM, MIXED])
@settings(deadline=None)
@given(counts=counts_of_drafts, seed=seeds)
def test_random(
    who: str, with_draft_probs: bool, synthetic: bool, counts: list[int], seed: int
) -> None:
    batch = Batch(counts, seed, who)
    target = batch.probabilities()
    drafted = batch.probabilities() if with_draft_probs else None
    recovered = int32(list(range(100, 100 + batch.tokens)))

    want = batch.output.tolist()
    for request, (begin, end) in enumerate(batch.spans):
        if batch.is_greedy[request]:
            continue
        for place, token in enumerate(range(begin, end)):
            draft = int(batch.drafts[token])
            if draft < 0:
                accepted = False
            elif synthetic:
                accepted = bool(batch.uniform[token] < batch.rates[place])
            else:
                share = torch.ones(()) if drafted is None else drafted[token, draft]
                ratio = target[token, draft] / share
                accepted = bool(share > 0) and float(ratio) >= float(batch.uniform[token])
            want[request][place] = draft if accepted else int(recovered[token])
            if not accepted:
                break
        else:
            want[request][end - begin] = int(batch.bonus[request])

    reject_random(
        output_token_ids_ptr=batch.output,
        cu_num_draft_tokens_ptr=batch.cumulative,
        draft_token_ids_ptr=batch.drafts,
        draft_probs_ptr=drafted,
        target_probs_ptr=target,
        bonus_token_ids_ptr=batch.bonus,
        recovered_token_ids_ptr=recovered,
        uniform_probs_ptr=batch.uniform,
        is_greedy_ptr=batch.is_greedy,
        max_spec_len=batch.max_spec_len,
        vocab_size=VOCAB,
        synthetic_conditional_rates_ptr=batch.rates if synthetic else None,
        NO_DRAFT_PROBS=drafted is None,
        SYNTHETIC_MODE=synthetic,
    )
    assert batch.output.tolist() == want


@pytest.mark.parametrize("share", [1 - 2**-24, 0.0])
def test_random_numbers_keep_their_float64(share: float) -> None:
    """As float32, 1 - 2⁻⁴⁰ would be 1, and 2⁻²⁰⁰ would be 0; either would turn the verdict."""
    uniform = {1 - 2**-24: 1 - 2**-24 - 2**-40, 0.0: 2**-200}[share]
    target = torch.full((1, 1), share)
    output = torch.full((1, 2), PLACEHOLDER, dtype=torch.int32)
    reject_random(
        output_token_ids_ptr=output,
        cu_num_draft_tokens_ptr=int32([1]),
        draft_token_ids_ptr=int32([0]),
        draft_probs_ptr=None,
        target_probs_ptr=target,
        bonus_token_ids_ptr=torch.tensor([5]),
        recovered_token_ids_ptr=int32([3]),
        uniform_probs_ptr=torch.tensor([uniform], dtype=torch.float64),
        is_greedy_ptr=torch.tensor([False]),
        max_spec_len=1,
        vocab_size=1,
        synthetic_conditional_rates_ptr=None,
        NO_DRAFT_PROBS=True,
        SYNTHETIC_MODE=False,
    )
    assert output.tolist() == ([[0, 5]] if share else [[3, PLACEHOLDER]])


def launch_recovered(
    batch: Batch, target: torch.Tensor, drafted: torch.Tensor | None, inverse: torch.Tensor
) -> list[int]:
    output = torch.full_like(batch.drafts, PLACEHOLDER)
    sample_recovered(
        output_token_ids_ptr=output,
        cu_num_draft_tokens_ptr=batch.cumulative,
        draft_token_ids_ptr=batch.drafts,
        draft_probs_ptr=drafted,
        target_probs_ptr=target,
        inv_q_ptr=inverse,
        vocab_size=VOCAB,
        BLOCK_SIZE=4,
        NO_DRAFT_PROBS=drafted is None,
        USE_FP64_GUMBEL=inverse.dtype == torch.float64,
    )
    return output.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_draft_probs", [False, True])
@settings(deadline=None)
@given(counts=counts_of_drafts, seed=seeds)
def test_recovered_tokens(
    with_draft_probs: bool, dtype: torch.dtype, counts: list[int], seed: int
) -> None:
    batch = Batch(counts, seed)
    target = batch.probabilities()
    drafted = batch.probabilities() if with_draft_probs else None
    # Few different values, so that there are ties.
    inverse = torch.from_numpy(batch.random.integers(1, 3, (len(counts), VOCAB))).to(dtype) / 3

    want = []
    for request, (begin, end) in enumerate(batch.spans):
        for token in range(begin, end):
            best, chosen = -1.0, 0
            for word in range(VOCAB):
                share = target[token, word]
                if drafted is not None:
                    share = torch.clamp(share - drafted[token, word], min=0)
                elif word == int(batch.drafts[token]):
                    share = torch.zeros(())
                score = float(share * inverse[request, word])
                if score > best:
                    best, chosen = score, word
            want.append(chosen)
    assert launch_recovered(batch, target, drafted, inverse) == want


def test_noise_keeps_its_float64() -> None:
    batch = Batch([1], seed=0)
    inverse = torch.ones(1, VOCAB, dtype=torch.float64)
    inverse[0, 5] += 2**-40
    assert launch_recovered(batch, torch.ones(1, VOCAB), torch.zeros(1, VOCAB), inverse) == [5]


def test_nothing_left_to_recover_gives_a_token_of_the_vocabulary() -> None:
    batch = Batch([2], seed=0)
    probs = batch.probabilities()
    assert launch_recovered(batch, probs, probs, torch.ones(1, VOCAB)) == [0, 0]


@pytest.mark.parametrize("with_draft_probs", [False, True])
def test_an_impossible_token_is_not_recovered(with_draft_probs: bool) -> None:
    """A q of 0 makes p / q NaN where p is 0."""
    batch = Batch([1], seed=0)
    batch.drafts[0] = -1
    target = torch.zeros(1, VOCAB)
    target[0, 4] = 0.1
    drafted = torch.zeros(1, VOCAB) if with_draft_probs else None
    inverse = torch.ones(1, VOCAB)
    inverse[0, 2] = torch.inf
    assert launch_recovered(batch, target, drafted, inverse) == [4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int64])
@settings(deadline=None)
@given(counts=counts_of_drafts, seed=seeds)
def test_expand(dtype: torch.dtype, counts: list[int], seed: int) -> None:
    batch = Batch(counts, seed)
    values = torch.from_numpy(batch.random.integers(0, 3, len(counts))).to(dtype)
    output = torch.full((batch.tokens,), PLACEHOLDER, dtype=dtype)
    expand(
        output_ptr=output,
        input_ptr=values,
        cu_num_tokens_ptr=batch.cumulative,
        replace_from=0,
        replace_to=1,
        MAX_NUM_TOKENS=128,
    )
    want = [
        value or 1
        for value, count in zip(values.tolist(), counts, strict=True)
        for _ in range(count)
    ]
    assert output.tolist() == want

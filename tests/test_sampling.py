"""Every sampling field of vLLM is honoured."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests import oracle
from tests.asking import expected, passage

if TYPE_CHECKING:
    from vllm import LLM

    from tests.conftest import Engines

PROMPT = "Shall I compare thee to a summer's day?\n"


@pytest.fixture
def llm(engines: Engines, way: str) -> LLM:
    return engines.get("llama", way)


def sample(llm: LLM, prompt: Any = PROMPT, **fields: Any) -> list[Any]:
    """The completions of one prompt."""
    from vllm import SamplingParams

    defaults = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
    params = SamplingParams(**{**defaults, **fields})
    return list(llm.generate(prompt, params, use_tqdm=False)[0].outputs)


def tokens(llm: LLM, prompt: Any = PROMPT, **fields: Any) -> list[int]:
    return list(sample(llm, prompt, **fields)[0].token_ids)


def test_several_completions_of_one_prompt(llm: LLM) -> None:
    completions = sample(llm, n=4, temperature=1.0, seed=3)
    assert len(completions) == 4
    assert len({tuple(each.token_ids) for each in completions}) > 1


def test_beam_search_finds_what_a_search_over_hugging_face_finds(
    llm: LLM, tiny_model: Callable[[str], Path]
) -> None:
    from vllm.sampling_params import BeamSearchParams

    path = tiny_model("llama")
    prompt = passage(path, 20)
    params = BeamSearchParams(beam_width=3, max_tokens=4, ignore_eos=True)
    (found,) = llm.beam_search([{"prompt_token_ids": prompt}], params)
    beams = [(0.0, list(prompt))]
    for _ in range(4):
        grown = []
        for score, beam in beams:
            best = oracle.logprobs(path, beam)[-1].topk(6)
            grown += [
                (score + value, [*beam, token])
                for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        beams = sorted(grown, key=lambda each: -each[0])[:3]
    assert [list(each.tokens) for each in found.sequences] == [beam for _, beam in beams]


def test_seed_makes_sampling_repeatable(llm: LLM) -> None:
    first = tokens(llm, temperature=1.0, seed=7)
    assert tokens(llm, temperature=1.0, seed=7) == first
    assert any(tokens(llm, temperature=1.0, seed=seed) != first for seed in (8, 9, 10))


def test_seeded_prompt_that_is_read_in_chunks_draws_as_one_read_whole(
    engines: Engines, way: str, tiny_model: Callable[[str], Path]
) -> None:
    """A chunk's discarded token must not use up the request's random numbers."""
    prompt = passage(tiny_model("llama"), 500)
    fields = {"prompt": {"prompt_token_ids": prompt}, "temperature": 1.0, "seed": 11}
    chunked = engines.get("llama", way, max_num_batched_tokens=128)
    whole = engines.get("llama", way, max_num_batched_tokens=1024, enable_chunked_prefill=False)
    assert tokens(chunked, **fields) == tokens(whole, **fields)


def test_top_k_of_one_is_greedy(llm: LLM) -> None:
    assert tokens(llm, temperature=1.0, top_k=1) == tokens(llm)


def test_tiny_top_p_is_greedy(llm: LLM) -> None:
    assert tokens(llm, temperature=1.0, top_p=1e-6) == tokens(llm)


def test_min_p_of_one_is_greedy(llm: LLM) -> None:
    assert tokens(llm, temperature=1.0, min_p=1.0) == tokens(llm)


def test_samples_follow_the_distribution_of_hugging_face(
    llm: LLM, tiny_model: Callable[[str], Path]
) -> None:
    """Frequencies of the first token over many draws."""
    path = tiny_model("llama")
    prompt = passage(path, 12)
    draws = sample(llm, {"prompt_token_ids": prompt}, n=400, temperature=1.0, max_tokens=1, seed=1)
    chances = oracle.logprobs(path, prompt)[-1].exp()
    best = int(chances.argmax())
    chance = float(chances[best])
    seen = sum(draw.token_ids[0] == best for draw in draws) / len(draws)
    assert abs(seen - chance) < 4 * math.sqrt(chance * (1 - chance) / len(draws)) + 1e-3


@pytest.mark.parametrize("field", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_penalties_suppress_repetition(llm: LLM, field: str) -> None:
    """A strong penalty leaves fewer repeated tokens than none does."""
    plain = tokens(llm, max_tokens=48)
    penalised = tokens(llm, max_tokens=48, **{field: 2.0})
    assert penalised != plain
    assert len(set(penalised)) > len(set(plain))


def test_logit_bias_forces_a_token(llm: LLM) -> None:
    assert tokens(llm, logit_bias={42: 100.0}) == [42] * 8


def test_bad_words_never_come(llm: LLM) -> None:
    plain = sample(llm)[0]
    tokenizer = llm.get_tokenizer()
    word = tokenizer.decode([plain.token_ids[0]])
    assert plain.token_ids[0] not in tokens(llm, bad_words=[word])[:1]


def test_only_allowed_tokens_come(llm: LLM) -> None:
    assert set(tokens(llm, allowed_token_ids=[40, 41, 42])) <= {40, 41, 42}


def test_min_tokens_holds_the_end_back(llm: LLM) -> None:
    first = tokens(llm)[0]
    short = tokens(llm, stop_token_ids=[first], ignore_eos=False)
    longer = tokens(llm, stop_token_ids=[first], min_tokens=5, ignore_eos=False)
    assert len(short) == 1
    assert len(longer) >= 5


def test_stop_strings_end_the_text(llm: LLM) -> None:
    text = sample(llm, max_tokens=48)[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    (stopped,) = sample(llm, max_tokens=48, stop=[stop])
    assert stopped.text == text[: text.index(stop)]
    assert stopped.stop_reason == stop


def test_maximum_length_ends_the_text(llm: LLM) -> None:
    (completion,) = sample(llm, max_tokens=5)
    assert len(completion.token_ids) == 5
    assert completion.finish_reason == "length"


def test_prompt_embeddings_give_the_tokens_of_their_ids(
    engines: Engines, way: str, tiny_model: Callable[[str], Path]
) -> None:
    path = tiny_model("llama")
    prompt = passage(path, 40)
    llm = engines.get("llama", way, enable_prompt_embeds=True)
    embed = oracle.load(path, "generate").get_input_embeddings()
    embeddings = embed(torch.tensor(prompt)).detach()
    by_ids = tokens(llm, {"prompt_token_ids": prompt})
    assert tokens(llm, {"prompt_embeds": embeddings}) == by_ids
    assert [by_ids] == expected(path, [prompt], 8)

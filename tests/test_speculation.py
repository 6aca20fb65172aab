"""Speculative decoding: drafts come faster, and never change a greedy token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.asking import expected, greedy
from tests.conftest import ARTIFACT
from tests.prompts import clear_prompts

if TYPE_CHECKING:
    from tests.conftest import Engines

NEW_TOKENS = 32


def possible(way: str, speculation: str, asynchronous: bool) -> bool:
    """vLLM schedules n-gram speculation synchronously; a session holds one model (that a draft
    model is refused there is tested in tests/artifacts)."""
    return not asynchronous if speculation == "ngram" else way != ARTIFACT


pytestmark = pytest.mark.pairwise("way", "speculation", "asynchronous", possible=possible)


@pytest.fixture(params=["ngram", "draft_model"], scope="module")
def speculation(
    request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]
) -> dict[str, Any]:
    if request.param == "ngram":
        return {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}
    return {
        "method": "draft_model",
        "model": str(tiny_model("llama-draft")),
        "num_speculative_tokens": 3,
        "max_model_len": 1024,
    }


@pytest.fixture(params=[False, True], ids=["sync", "async"], scope="module")
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def llm(engines: Engines, way: str, speculation: dict[str, Any], asynchronous: bool) -> Any:
    return engines.get(
        "llama",
        way,
        speculative_config=speculation,
        async_scheduling=asynchronous,
        disable_log_stats=False,
    )


def test_greedy_tokens_equal_hugging_face(llm: Any, tiny_model: Callable[[str], Path]) -> None:
    path = tiny_model("llama")
    prompts = clear_prompts(path, 12, NEW_TOKENS, longest=400)
    assert greedy(llm, prompts, NEW_TOKENS) == expected(path, prompts, NEW_TOKENS)
    accepted = {
        metric.name: metric.value
        for metric in llm.get_metrics()
        if metric.name.startswith("vllm:spec_decode_num") and hasattr(metric, "value")
    }
    assert accepted["vllm:spec_decode_num_drafts"] > 0
    assert accepted["vllm:spec_decode_num_accepted_tokens"] > 0


def test_sampled_and_penalised_requests_share_the_batch(
    llm: Any, tiny_model: Callable[[str], Path]
) -> None:
    """Rejection sampling takes the random path for some rows and the greedy one for others."""
    from vllm import SamplingParams

    path = tiny_model("llama")
    prompts = clear_prompts(path, 6, 16, longest=80)
    greedy = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    random = SamplingParams(temperature=1.0, top_p=0.9, max_tokens=16, ignore_eos=True)
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = llm.generate(inputs, [greedy, random] * 3, use_tqdm=False)
    given = [list(output.outputs[0].token_ids) for output in outputs]
    assert given[::2] == expected(path, prompts[::2], 16)
    assert all(len(tokens) == 16 for tokens in given[1::2])

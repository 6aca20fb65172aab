"""A request whose numbers are NaN or infinite ends with an error, and nobody else notices it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from vllm import SamplingParams

from tests import oracle
from tests.asking import expected, greedy, tokens_of
from tests.prompts import clear_prompts

if TYPE_CHECKING:
    from tests.conftest import Engines

NEW_TOKENS = 8
# Few blocks, so that the next requests get those that the spoilt one had.
OPTIONS: dict[str, Any] = {
    "enable_prompt_embeds": True,
    "max_model_len": 256,
    "num_gpu_blocks_override": 40,
    "max_num_batched_tokens": 96,
}


@pytest.fixture(params=[True, False], ids=["cached", "uncached"])
def prefix_caching(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def llm(engines: Engines, contract: str, prefix_caching: bool) -> Any:
    return engines.get("llama", contract, enable_prefix_caching=prefix_caching, **OPTIONS)


@pytest.fixture
def prompts(tiny_model: Callable[[str], Path]) -> list[list[int]]:
    return clear_prompts(tiny_model("llama"), 6, NEW_TOKENS, longest=200)


def spoilt(path: Path, wild: float, first: int, length: int = 200) -> dict[str, torch.Tensor]:
    """Embeddings with such a number from a token on."""
    width = oracle.load(path, "generate").config.hidden_size
    embeddings = torch.randn(length, width)
    embeddings[first:] = wild
    return {"prompt_embeds": embeddings}


@pytest.mark.parametrize(("wild", "first"), [(float("nan"), 0), (float("inf"), 150)])
def test_it_ends_with_an_error_and_spoils_no_other(
    llm: Any,
    tiny_model: Callable[[str], Path],
    prompts: list[list[int]],
    wild: float,
    first: int,
) -> None:
    """Those beside it, and those that get its blocks; also where an early chunk was sound."""
    path = tiny_model("llama")
    wanted = expected(path, prompts, NEW_TOKENS)
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    given = [{"prompt_token_ids": each} for each in prompts]
    bad = spoilt(path, wild, first)
    outputs = llm.generate([bad, *given, bad], params, use_tqdm=False)
    for each in (outputs[0], outputs[-1]):
        assert each.outputs[0].finish_reason == "error"
        assert not each.outputs[0].token_ids
    assert tokens_of(outputs[1:-1]) == wanted
    for _ in range(2):
        assert greedy(llm, prompts, NEW_TOKENS) == wanted


def test_its_blocks_are_not_shared(
    llm: Any, tiny_model: Callable[[str], Path], prefix_caching: bool
) -> None:
    """The same prompt again is computed again, and ends the same way."""
    if not prefix_caching:
        pytest.skip("nothing is shared")
    bad = spoilt(tiny_model("llama"), float("nan"), 100)
    params = SamplingParams(temperature=0, max_tokens=2)
    for _ in range(2):
        (output,) = llm.generate([bad], params, use_tqdm=False)
        assert output.outputs[0].finish_reason == "error"
        assert not output.num_cached_tokens

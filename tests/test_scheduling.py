"""Scheduling: asynchronous or not, under pressure, and with a scheduler of the user's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.asking import expected, greedy, passage
from tests.conftest import SCARCE
from tests.prompts import clear_prompts, mixed_prompts
from tests.schedulers import steps_of

if TYPE_CHECKING:
    from tests.conftest import Engines

NEW_TOKENS = 24


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_async_scheduling_changes_no_token(
    engines: Engines, tiny_model: Callable[[str], Path], way: str, asynchronous: bool
) -> None:
    path = tiny_model("llama")
    prompts = clear_prompts(path, 20, NEW_TOKENS, longest=200)
    llm = engines.scheduled("llama", way, asynchronous)
    assert greedy(llm, prompts, NEW_TOKENS) == expected(path, prompts, NEW_TOKENS)


def test_preempted_requests_come_back_unchanged(
    engines: Engines, tiny_model: Callable[[str], Path], contract: str
) -> None:
    """Eight long requests that grow, with KV for two at most."""
    path = tiny_model("llama")
    prompts = [passage(path, 100 + 15 * index, 50 * index) for index in range(8)]
    llm = engines.get("llama", contract, **SCARCE)
    new = 120
    assert greedy(llm, prompts, new) == expected(path, prompts, new)


def test_custom_scheduler_class(engines: Engines, tiny_model: Callable[[str], Path]) -> None:
    path = tiny_model("llama")
    prompts = clear_prompts(path, 4, NEW_TOKENS, longest=60)
    llm = engines.get(
        "llama",
        "paged",
        scheduler_cls="tests.schedulers.CountingScheduler",
        async_scheduling=False,
    )
    assert greedy(llm, prompts, NEW_TOKENS) == expected(path, prompts, NEW_TOKENS)
    (steps,) = llm.collective_rpc(steps_of)
    assert steps >= NEW_TOKENS


def test_mixed_load_after_warm_up_compiles_nothing(
    engines: Engines, tiny_model: Callable[[str], Path], way: str
) -> None:
    """200 requests of all lengths and kinds, strict mode on; every tenth checked."""
    from vllm import SamplingParams

    path = tiny_model("llama")
    llm = engines.get("llama", way)
    before = llm.collective_rpc(compiled)
    prompts = mixed_prompts(path, count=200, longest=600)
    pick = random.Random(0)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.0, "seed": 5, "top_p": 0.9},
        {"temperature": 0, "logprobs": 2},
        {"temperature": 0.7, "min_p": 0.1, "repetition_penalty": 1.1},
    ]
    params = [
        SamplingParams(max_tokens=pick.randint(1, 16), ignore_eos=True, **kinds[index % 4])
        for index in range(len(prompts))
    ]
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = llm.generate(inputs, params, use_tqdm=False)
    assert llm.collective_rpc(compiled) == before
    for index in range(0, 200, 20):
        given = list(outputs[index].outputs[0].token_ids)
        assert [given] == expected(path, [prompts[index]], len(given))


def compiled(worker: Any) -> tuple[float, float]:
    """Graphs compiled so far, and those compiled after warm-up."""
    values = worker.counters.values
    return values["graphs_compiled"], values["graphs_compiled_late"]

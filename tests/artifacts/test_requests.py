"""Requests that come and go: aborted, preempted, too long, embeddings of a pooling model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.exceptions import VLLMValidationError

from tests import oracle
from tests.artifacts.conftest import DEVICES
from tests.asking import expected, greedy, passage
from tests.prompts import clear_prompts, mixed_prompts

COMPILED = {"prefill_chunk_size": 64, "max_batch_size": 4}
Checkpoint = Callable[[str], tuple[Path, Path]]


@pytest.fixture(params=DEVICES)
def llm(request: pytest.FixtureRequest, serve_artifact: Any) -> Any:
    return serve_artifact("llama", request.param, COMPILED)


@pytest.fixture
def path(checkpoint: Checkpoint) -> Path:
    return checkpoint("llama")[1]


def start(llm: Any, prompts: list[list[int]], new: int) -> list[str]:
    """Add requests to the engine's queue; their ids."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
    ids = [f"request-{index}" for index in range(len(prompts))]
    for name, prompt in zip(ids, prompts, strict=True):
        llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, params)
    return ids


def finish(llm: Any) -> dict[str, list[int]]:
    """Step until nothing is left; tokens by request."""
    tokens = {}
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            if output.finished:
                tokens[output.request_id] = list(output.outputs[0].token_ids)
    return tokens


def test_aborted_requests_leave_the_others_unchanged(llm: Any, path: Path) -> None:
    """In the prompt, while generating, and while waiting for a slot."""
    prompts = [passage(path, 40 + 60 * index, 30 * index) for index in range(8)]
    ids = start(llm, prompts, 24)
    for _ in range(3):
        llm.llm_engine.step()
    llm.llm_engine.abort_request([ids[0], ids[2], ids[7]])
    for _ in range(5):
        llm.llm_engine.step()
    llm.llm_engine.abort_request([ids[3]])
    done = list(finish(llm).values())
    kept = [prompt for index, prompt in enumerate(prompts) if index not in (0, 2, 3, 7)]
    assert sorted(done) == sorted(expected(path, kept, 24))
    assert greedy(llm, prompts, 24) == expected(path, prompts, 24)


def test_preempted_requests_come_back_unchanged(llm: Any, path: Path) -> None:
    """All running requests lose their slots in the middle, twice."""
    prompts = clear_prompts(path, 6, 24, longest=200)
    start(llm, prompts, 24)
    for _ in range(2):
        for _ in range(6):
            llm.llm_engine.step()
        assert llm.reset_prefix_cache(reset_running_requests=True)
    assert sorted(finish(llm).values()) == sorted(expected(path, prompts, 24))


def test_a_request_longer_than_the_compiled_length_is_refused(llm: Any, path: Path) -> None:
    too_long = (passage(path, 1000) * 2)[:1100]
    with pytest.raises(VLLMValidationError, match="maximum context length is 1024"):
        greedy(llm, [too_long], 1)


@pytest.mark.parametrize("device", DEVICES)
def test_embeddings_of_a_pooling_model(
    serve_artifact: Any, checkpoint: Checkpoint, device: str
) -> None:
    """A decoder's last hidden state, normalized, as Hugging Face's."""
    _, path = checkpoint("qwen3")
    llm = serve_artifact("qwen3", device, COMPILED, runner="pooling", convert="embed")
    prompts = mixed_prompts(path, count=10, longest=400)
    outputs = llm.embed([{"prompt_token_ids": prompt} for prompt in prompts], use_tqdm=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        wanted = oracle.embed(path, prompt, "last", normalize=True)
        torch.testing.assert_close(
            torch.tensor(output.outputs.embedding), wanted, atol=1e-4, rtol=0
        )


def test_several_boards_share_the_requests(serve_artifact: Any, checkpoint: Checkpoint) -> None:
    """Each has as many slots as the artifact was compiled for; prefixes go from one to another."""
    _, path = checkpoint("llama")
    boards = {"dev_no": [0, 1]}
    llm = serve_artifact("llama", "sim:large", COMPILED, model_loader_extra_config=boards)
    assert llm.llm_engine.vllm_config.scheduler_config.max_num_seqs == 8
    prompts = clear_prompts(path, 14, 16, longest=300)
    assert greedy(llm, prompts, 16) == expected(path, prompts, 16)
    shared = passage(path, 200)
    turns = [[*shared, *passage(path, 20, 400 + 50 * index)] for index in range(6)]
    assert greedy(llm, turns, 16) == expected(path, turns, 16)

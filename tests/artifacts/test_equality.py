"""Greedy tokens and logprobs of artifacts equal Hugging Face's, for every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.artifacts.conftest import DEVICES, FAMILIES
from tests.asking import ask, expected, greedy
from tests.prompts import clear_prompts, mixed_prompts

NEW_TOKENS = 16
TOLERANCE = 1e-4
Checkpoint = Callable[[str], tuple[Path, Path]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("device", DEVICES)
class TestFamilies:
    def test_greedy_tokens_equal_hugging_face(
        self, serve_artifact: Any, checkpoint: Checkpoint, family: str, device: str
    ) -> None:
        """Prompts of 1 to 600 tokens, more than there are slots."""
        compiled = {"prefill_chunk_size": 64, "max_batch_size": 4}
        _, path = checkpoint(family)
        prompts = clear_prompts(path, 14, NEW_TOKENS, longest=600)
        llm = serve_artifact(family, device, compiled)
        assert greedy(llm, prompts, NEW_TOKENS) == expected(path, prompts, NEW_TOKENS)

    def test_logprobs_equal_hugging_face(
        self, serve_artifact: Any, checkpoint: Checkpoint, family: str, device: str
    ) -> None:
        """Of the prompt and of what was generated."""
        compiled = {"prefill_chunk_size": 64, "max_batch_size": 4}
        _, path = checkpoint(family)
        prompts = mixed_prompts(path, count=4, longest=300)
        llm = serve_artifact(family, device, compiled)
        for prompt, output in zip(
            prompts, ask(llm, prompts, 4, logprobs=3, prompt_logprobs=2), strict=True
        ):
            generated = list(output.outputs[0].token_ids)
            reference = oracle.logprobs(path, prompt + generated)
            given = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
            for position, best in enumerate(given):
                for token, logprob in best.items():
                    assert abs(logprob.logprob - float(reference[position, token])) < TOLERANCE


@pytest.mark.pairwise("device", "chunk", "capacity")
@pytest.mark.parametrize("capacity", [1, 4, 8])
@pytest.mark.parametrize("chunk", [16, 64, 128])
@pytest.mark.parametrize("device", DEVICES)
def test_chunk_and_capacity_change_no_token(
    serve_artifact: Any, checkpoint: Checkpoint, device: str, chunk: int, capacity: int
) -> None:
    compiled = {"prefill_chunk_size": chunk, "max_batch_size": capacity}
    _, path = checkpoint("llama")
    prompts = clear_prompts(path, 10, NEW_TOKENS, longest=600)
    llm = serve_artifact("llama", device, compiled)
    assert greedy(llm, prompts, NEW_TOKENS) == expected(path, prompts, NEW_TOKENS)

"""Ask an engine for greedy tokens, and Hugging Face for the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import oracle
from tests.prompts import text_ids


def passage(path: Path, length: int, start: int = 0) -> list[int]:
    """A prompt of exactly `length` tokens from the sonnets."""
    return text_ids(path)[start : start + length]


def ask(llm: Any, prompts: list[list[int]], new: int, **fields: Any) -> list[Any]:
    """An engine's outputs: `new` greedy tokens for each prompt, unless `fields` say otherwise."""
    from vllm import SamplingParams

    defaults = {"temperature": 0, "max_tokens": new, "ignore_eos": True}
    params = SamplingParams(**{**defaults, **fields})
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    return list(llm.generate(inputs, params, use_tqdm=False))


def tokens_of(outputs: list[Any]) -> list[list[int]]:
    """The first completion of each output."""
    return [list(output.outputs[0].token_ids) for output in outputs]


def greedy(llm: Any, prompts: list[list[int]], new: int) -> list[list[int]]:
    """An engine's greedy tokens."""
    return tokens_of(ask(llm, prompts, new))


def expected(path: Path, prompts: list[list[int]], new: int) -> list[list[int]]:
    """Hugging Face's greedy tokens."""
    return oracle.greedy(path, prompts, new, ignore_eos=True)

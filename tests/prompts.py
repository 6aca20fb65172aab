"""Prompts for the tests: pieces of the sonnets, of very different lengths."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

from transformers import AutoTokenizer

from tests import oracle

SONNETS = Path(__file__).resolve().parents[1] / "examples" / "sonnets" / "sonnets.txt"


@lru_cache
def text_ids(model_dir: str | Path) -> list[int]:
    """All sonnets as token ids of the model's tokenizer, without special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    return tokenizer.encode(SONNETS.read_text(), add_special_tokens=False, verbose=False)


def mixed_prompts(
    model_dir: str | Path, count: int, longest: int = 600, seed: int = 0
) -> list[list[int]]:
    """`count` prompts of 1 to `longest` tokens; the same arguments give the same prompts.

    The first has one token and the second `longest`; the logarithms of the other lengths
    are spread evenly, so that short and long are about as frequent as each other.
    """
    rng = random.Random(seed)
    return [_piece(model_dir, length, rng) for length in _lengths(count, longest, rng)]


def clear_prompts(
    model_dir: str | Path,
    count: int,
    max_new_tokens: int,
    longest: int = 600,
    seed: int = 0,
    margin: float = 2e-3,
) -> list[list[int]]:
    """Prompts like those of `mixed_prompts`, on which the next token is never in doubt.

    On the greedy path of each, for `max_new_tokens` tokens, the best token leads the second
    by at least `margin` in logits, in float32. So any correct implementation whose error is
    smaller than half of that gives the same tokens.
    """
    rng = random.Random(seed)
    prompts = mixed_prompts(model_dir, count, longest, seed)
    for place, prompt in enumerate(prompts):
        while min(_leads(model_dir, prompts[place], max_new_tokens)) < margin:
            prompts[place] = _piece(model_dir, len(prompt), rng)
    return prompts


def _leads(model_dir: str | Path, prompt: list[int], max_new_tokens: int) -> list[float]:
    """By how much the best token leads at each step, end-of-sequence tokens ignored."""
    return oracle.margins(model_dir, [prompt], max_new_tokens, ignore_eos=True)[0]


def _lengths(count: int, longest: int, rng: random.Random) -> list[int]:
    """1, `longest`, and then lengths between them."""
    return ([1, longest] + [round(longest ** rng.random()) for _ in range(count - 2)])[:count]


def _piece(model_dir: str | Path, length: int, rng: random.Random) -> list[int]:
    """`length` consecutive tokens from a random place in the text."""
    ids = text_ids(model_dir)
    start = rng.randrange(len(ids) - length)
    return ids[start : start + length]

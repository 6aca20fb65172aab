"""Prompts for the tests: pieces of the sonnets, of very different lengths."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

from transformers import AutoTokenizer

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
    ids = text_ids(model_dir)
    rng = random.Random(seed)
    lengths = [1, longest] + [round(longest ** rng.random()) for _ in range(count - 2)]
    starts = [rng.randrange(len(ids) - length) for length in lengths]
    return [ids[start : start + length] for start, length in zip(starts, lengths, strict=True)][
        :count
    ]

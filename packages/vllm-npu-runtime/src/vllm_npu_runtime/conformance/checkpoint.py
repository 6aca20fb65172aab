"""A tiny checkpoint to compile, and what Hugging Face makes of it.

Nothing here uses the suite's own operators or sessions, so that no mistake can be on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 256
WINDOW = 24
MAX_LENGTH = 1024
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": MAX_LENGTH,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "exaone4": {
        "num_hidden_layers": 4,
        "sliding_window": WINDOW,
        "sliding_window_pattern": "LLLG",
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    },
}
"""Options of each kind's configuration; the second mixes windows with full attention."""


def write(kind: str, directory: Path) -> Path:
    """Write a checkpoint with random weights, large enough for the next token to be clear.

    Args:
        kind: a key of `KINDS`.
        directory: to write.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **{**_SIZES, **KINDS[kind]})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.15)
    model.save_pretrained(directory)
    return directory


@dataclass(frozen=True)
class Request:
    """A prompt, and its most likely continuation.

    Attributes:
        prompt: token ids.
        answer: token ids, as Hugging Face's `generate` gives them in float32.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def requests(
    directory: Path, lengths: Sequence[int], new: int = 12, margin: float = 2e-3
) -> list[Request]:
    """Requests whose answers leave no doubt.

    Args:
        directory: a checkpoint.
        lengths: of the prompts.
        new: tokens of an answer.
        margin: by which the best token's logit leads at each step. An implementation whose error
            is less than half of it gives the same tokens.
    """
    draw = torch.Generator().manual_seed(1)
    return [_request(directory, length, new, margin, draw) for length in lengths]


def _request(
    directory: Path, length: int, new: int, margin: float, draw: torch.Generator
) -> Request:
    for _ in range(200):
        prompt = torch.randint(3, VOCABULARY, (length,), generator=draw)
        answer, lead = _generate(directory, tuple(prompt.tolist()), new)
        if lead >= margin:
            return Request(tuple(prompt.tolist()), answer)
    raise AssertionError(f"no prompt of {length} tokens leads by {margin}")


@lru_cache(maxsize=1024)
def _generate(directory: Path, prompt: tuple[int, ...], new: int) -> tuple[tuple[int, ...], float]:
    """Tokens, and the smallest lead of a best logit over the second."""
    model = _model(directory)
    given = torch.tensor([prompt])
    result = model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.stack(result.logits)[:, 0].float().topk(2).values
    lead = float((best[:, 0] - best[:, 1]).min())
    return tuple(result.sequences[0, len(prompt) :].tolist()), lead


@lru_cache(maxsize=4)
def _model(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    loader = AutoModelForCausalLM
    return loader.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")

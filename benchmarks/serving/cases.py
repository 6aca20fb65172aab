"""What is run: the model's shape, the requests, and the bytes and operations they take."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

BYTES = {"bfloat16": 2, "float32": 4}
"""Of a number, by dtype: weights and KV cache of every contender have the same."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama with untied embeddings.

    Attributes:
        dtype: of weights, arithmetic and KV cache, by torch's name.
    """

    name: str
    dtype: str = "bfloat16"
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int

    @property
    def number_bytes(self) -> int:
        """Of a weight, and of a number in the KV cache."""
        return BYTES[self.dtype]

    @property
    def layer_parameters(self) -> int:
        """Of the matrices of all layers; the norms are too small to matter."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = self.hidden * (2 * queries + 2 * keys)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_parameters(self) -> int:
        """Of the matrix that gives logits, and of the embeddings alike."""
        return self.hidden * self.vocabulary

    @property
    def weight_bytes(self) -> int:
        """The checkpoint's size, embeddings included."""
        return self.number_bytes * (self.layer_parameters + 2 * self.head_parameters)

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return self.number_bytes * 2 * self.layers * self.kv_heads * self.head_size

    def decode_bytes(self, batch: int, context: float) -> float:
        """Bytes that a decode step must read.

        `bytes·(layers' and head's parameters) + batch·context·(KV bytes per token)`: each weight
        once for the whole batch, each request's keys and values; of the embeddings only a row each,
        which is left out, and so are activations, which stay in the caches.
        """
        weights = self.number_bytes * (self.layer_parameters + self.head_parameters)
        return weights + batch * context * self.kv_bytes_per_token

    def prefill_flops(self, batch: int, tokens: int) -> float:
        """Operations of prefill, a multiplication and an addition being two.

        `batch·(2·tokens·(layers' parameters) + 2·(head's parameters) + 2·layers·queries·tokens²)`:
        logits of the last token only, and attention over half of the square (causal) twice.
        """
        attention = 2 * self.layers * self.heads * self.head_size * tokens**2
        return batch * (2 * tokens * self.layer_parameters + 2 * self.head_parameters + attention)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            name="350m",
            hidden=1024,
            layers=24,
            heads=16,
            kv_heads=8,
            head_size=64,
            intermediate=2816,
            vocabulary=32000,
        ),
        Shape(  # to try the benchmark itself
            name="tiny",
            hidden=128,
            layers=2,
            heads=4,
            kv_heads=2,
            head_size=32,
            intermediate=256,
            vocabulary=1024,
        ),
    )
}


def shape_of(plan: Mapping[str, Any]) -> Shape:
    """The shape of a plan in a report."""
    return replace(SHAPES[plan["shape"]], dtype=plan.get("dtype", "bfloat16"))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every contender is asked, and the room that each is given for it."""

    shape: Shape
    prompt_tokens: int = 128
    new_tokens: int = 64
    batches: tuple[int, ...] = (1, 8, 32)
    prefill_batches: tuple[int, ...] = (1, 8)
    rounds: int = 5
    starts: int = 2
    threads: int = 2
    max_model_len: int = 512
    max_num_seqs: int = 32
    kv_cache_gib: int = 1

    @property
    def context(self) -> float:
        """Tokens that a decode step attends to, on average over the steps of a request."""
        return self.prompt_tokens + self.new_tokens / 2

    def prompts(self, batch: int, seed: int) -> list[list[int]]:
        """Random token ids; the first hundred, where special tokens are, don't occur."""
        ids = random.Random(seed)
        return [
            [ids.randrange(100, self.shape.vocabulary) for _ in range(self.prompt_tokens)]
            for _ in range(batch)
        ]

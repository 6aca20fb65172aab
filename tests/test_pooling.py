"""Pooling: embeddings, classes and scores equal Hugging Face's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoTokenizer
from vllm.config import PoolerConfig

from tests import oracle
from tests.prompts import mixed_prompts

if TYPE_CHECKING:
    from tests.conftest import Engines

TOLERANCE = 1e-4
ENCODER: dict[str, Any] = {
    "runner": "pooling",
    "max_model_len": 256,
    "max_num_batched_tokens": 512,
}
DECODER: dict[str, Any] = {"runner": "pooling", "max_num_batched_tokens": 128}


def inputs_of(path: Path, count: int, longest: int) -> list[dict[str, Any]]:
    prompts = mixed_prompts(path, count=count, longest=longest)
    return [{"prompt_token_ids": prompt} for prompt in prompts]


@pytest.mark.parametrize(
    ("name", "options", "longest", "pooling"),
    [("bert", ENCODER, 250, "cls"), ("qwen3-embedding", DECODER, 600, "last")],
    ids=["encoder", "decoder"],
)
def test_embeddings(
    engines: Engines,
    tiny_model: Callable[[str], Path],
    contract: str,
    name: str,
    options: dict[str, Any],
    longest: int,
    pooling: str,
) -> None:
    path = tiny_model(name)
    inputs = inputs_of(path, 12, longest)
    outputs = engines.get(name, contract, **options).embed(inputs, use_tqdm=False)
    for given, output in zip(inputs, outputs, strict=True):
        expected = oracle.embed(path, given["prompt_token_ids"], pooling, normalize=True)
        torch.testing.assert_close(
            torch.tensor(output.outputs.embedding), expected, atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize(
    ("name", "options", "longest"),
    [("bert-classifier", ENCODER, 250), ("llama-classifier", DECODER, 600)],
    ids=["encoder", "decoder"],
)
def test_classes(
    engines: Engines,
    tiny_model: Callable[[str], Path],
    contract: str,
    name: str,
    options: dict[str, Any],
    longest: int,
) -> None:
    path = tiny_model(name)
    inputs = inputs_of(path, 8, longest)
    outputs = engines.get(name, contract, **options).classify(inputs, use_tqdm=False)
    for given, output in zip(inputs, outputs, strict=True):
        expected = oracle.classify(path, given["prompt_token_ids"])
        torch.testing.assert_close(
            torch.tensor(output.outputs.probs), expected, atol=TOLERANCE, rtol=0
        )


def test_scores_of_a_cross_encoder(
    engines: Engines, tiny_model: Callable[[str], Path], contract: str
) -> None:
    path = tiny_model("bert-cross")
    query = "Shall I compare thee to a summer's day?"
    texts = ["Thou art more lovely", "Rough winds do shake the darling buds of May", "love"]
    outputs = engines.get("bert-cross", contract, **ENCODER).score(query, texts, use_tqdm=False)
    pairs = [AutoTokenizer.from_pretrained(path)(query, text) for text in texts]
    expected = [
        float(oracle.classify(path, pair["input_ids"], pair["token_type_ids"])) for pair in pairs
    ]
    assert [output.outputs.score for output in outputs] == pytest.approx(expected, abs=TOLERANCE)


def test_hidden_states_of_every_token(
    engines: Engines, tiny_model: Callable[[str], Path], contract: str
) -> None:
    """What is returned belongs to the caller: later steps must not change it."""
    path = tiny_model("bert")
    inputs = inputs_of(path, 6, 200)
    pooler = PoolerConfig(task="token_embed")
    llm = engines.get("bert", contract, **ENCODER, pooler_config=pooler)
    outputs = llm.encode(inputs, pooling_task="token_embed", use_tqdm=False)
    for given, output in zip(inputs, outputs, strict=True):
        assert output.outputs.data.shape[0] == len(given["prompt_token_ids"])
        first = oracle.embed(path, given["prompt_token_ids"], "cls", normalize=True)
        torch.testing.assert_close(output.outputs.data[0], first, atol=TOLERANCE, rtol=0)

"""Greedy tokens and logprobs equal Hugging Face's, for every family, under both KV contracts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import oracle
from tests.asking import ask, expected, greedy, passage
from tests.conftest import ENGINE, NPU
from tests.prompts import clear_prompts, mixed_prompts
from vllm_npu_runtime.openvino.processor import VARIABLE

if TYPE_CHECKING:
    from tests.conftest import Engines

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "exaone4", "gemma2")
NEW_TOKENS = 16
TOLERANCE = 1e-4

# A chunk is smaller than a prompt, or takes every prompt whole.
READING: dict[str, dict[str, Any]] = {
    "chunked": {"max_num_batched_tokens": 128},
    "whole": {"max_num_batched_tokens": 1024, "enable_chunked_prefill": False},
}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=READING, scope="module")
def reading(request: pytest.FixtureRequest) -> str:
    return str(request.param)


every_family = pytest.mark.pairwise("family", "contract", "reading")


@every_family
def test_greedy_tokens_equal_hugging_face(
    engines: Engines,
    tiny_model: Callable[[str], Path],
    family: str,
    contract: str,
    reading: str,
) -> None:
    """Prompts of 1 to 600 tokens, more of them than fit into a batch."""
    path = tiny_model(family)
    prompts = clear_prompts(path, 14, NEW_TOKENS, longest=600)
    llm = engines.get(family, contract, **READING[reading])
    assert greedy(llm, prompts, NEW_TOKENS) == expected(path, prompts, NEW_TOKENS)


@every_family
def test_logprobs_equal_hugging_face(
    engines: Engines,
    tiny_model: Callable[[str], Path],
    family: str,
    contract: str,
    reading: str,
) -> None:
    """Of the prompt and of what was generated, the sampled token's and the best ones'."""
    path = tiny_model(family)
    prompts = mixed_prompts(path, count=4, longest=300)
    llm = engines.get(family, contract, **READING[reading])
    outputs = ask(llm, prompts, 4, logprobs=3, prompt_logprobs=2)
    for prompt, output in zip(prompts, outputs, strict=True):
        generated = list(output.outputs[0].token_ids)
        reference = oracle.logprobs(path, prompt + generated)
        given = [*output.prompt_logprobs[1:], *output.outputs[0].logprobs]
        for position, best in enumerate(given):
            for token, logprob in best.items():
                assert abs(logprob.logprob - float(reference[position, token])) < TOLERANCE


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_close_to_float32(
    engines: Engines, tiny_model: Callable[[str], Path], contract: str, dtype: str
) -> None:
    """Logprobs of a prompt are within what the dtype can resolve."""
    path = tiny_model("llama")
    prompt = passage(path, 200)
    llm = engines.get("llama", contract, dtype=dtype)
    (output,) = ask(llm, [prompt], 1, prompt_logprobs=0)
    reference = oracle.logprobs(path, prompt)
    errors = [
        abs(given[token].logprob - float(reference[position, token]))
        for position, (token, given) in enumerate(
            zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
        )
    ]
    assert sum(errors) / len(errors) < (0.05 if dtype == "bfloat16" else 0.01)


# Under either contract KV is exact; float16, which may be kept, rounds it a little.
@pytest.mark.parametrize(
    ("dtype", "kv_contract", "name", "tolerance"),
    [
        ("bfloat16", "paged", "llama", TOLERANCE),
        ("bfloat16", "gather", "gemma2", TOLERANCE),
        ("float16", "paged", "llama", 20 * TOLERANCE),
    ],
)
def test_16_bit_checkpoints_computed_in_float32_give_hugging_faces_tokens(
    engines: Engines,
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    dtype: str,
    kv_contract: str,
    name: str,
    tolerance: float,
) -> None:
    """On a processor without arithmetic of 16 bits, or one that is taken for such: the weights
    have 16 bits, and nothing else is rounded to them."""
    path = shutil.copytree(tiny_model(name), tmp_path / "checkpoint")
    weights = load_file(path / "model.safetensors")
    short = {name: tensor.to(getattr(torch, dtype)) for name, tensor in weights.items()}
    save_file(short, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text()) | {"dtype": dtype}
    (path / "config.json").write_text(json.dumps(config))
    prompts = clear_prompts(path, 10, NEW_TOKENS, longest=600)
    npu = {**NPU, "kv_contract": kv_contract} if kv_contract == "gather" else {"strict": True}
    options = ENGINE | {"dtype": "auto", "additional_config": {"npu": npu}}
    with patch.dict(os.environ, {VARIABLE: "float32"}):
        llm = engines.of(path, "openvino:CPU", **options)
    assert str(llm.model_config.dtype) == f"torch.{dtype}"
    assert greedy(llm, prompts, NEW_TOKENS) == expected(path, prompts, NEW_TOKENS)
    longest = max(prompts, key=len)
    (output,) = ask(llm, [longest], 1, prompt_logprobs=1)
    reference = oracle.logprobs(path, longest)
    for position, best in enumerate(output.prompt_logprobs[1:]):
        for token, logprob in best.items():
            assert abs(logprob.logprob - float(reference[position, token])) < tolerance


def test_graphs_give_the_tokens_of_the_model_run_eagerly(
    engines: Engines, tiny_model: Callable[[str], Path], contract: str
) -> None:
    """`--enforce-eager` runs vLLM's model code as it is, where the device allows."""
    prompts = clear_prompts(tiny_model("llama"), 8, 12, longest=300)
    eager = engines.get("llama", "paged", enforce_eager=True)
    graphs = engines.get("llama", contract)
    assert greedy(graphs, prompts, 12) == greedy(eager, prompts, 12)

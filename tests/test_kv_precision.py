"""OpenVINO's KV precision: what it costs in perplexity, and what it saves in memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from itertools import chain

import pytest
import torch
from transformers import AutoTokenizer

from tests import engine_process, oracle
from tests.conftest import DEMO_MODEL, ENGINE
from tests.engine_process import logprobs_of
from tests.prompts import SONNETS
from tests.serving import Finished
from vllm_npu_runtime.device import find

Runs = dict[str, Finished]

DEVICE = "openvino:CPU"
HELD_OUT = 8  # sonnets at the end of the text, which the model has not learned
# Far less than a sonnet has, so that most keys come from an earlier step. The others are read
# from the cache too: in one step for a whole sonnet, uint8 is as far from float32 as in many.
CHUNK = 32
BLOCK_BYTES = 4 * 2 * 2 * 32 * 32 * 4
"""Of the demo model: layers, keys and values, heads, their size, tokens, bytes of a float32."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A precision, and what it may cost.

    Attributes:
        options: of vLLM.
        setting: `kv_cache_dtype` of ours.
        kept: dtype of the KV cache.
        bound: share by which the perplexity may differ from float32's.
    """

    options: dict[str, str] = field(default_factory=dict)
    setting: str = "auto"
    kept: str
    bound: float


# A model in bfloat16 may be computed in float32, and so is its KV kept then.
SHORT = str(find(DEVICE).capabilities.computes_in(torch.bfloat16)).removeprefix("torch.")
# Measured with 3046.24 for float32: bfloat16 3050.4, float16 3046.4, uint8 3041.8, uint4 3108.0.
KINDS = {
    "bfloat16 model": Kind(options={"dtype": "bfloat16"}, kept=SHORT, bound=0.005),
    "float16": Kind(options={"kv_cache_dtype": "float16"}, kept="float16", bound=0.001),
    "uint8": Kind(setting="uint8", kept="uint8", bound=0.02),
    "uint4": Kind(setting="uint4", kept="uint4", bound=0.1),
}
PLAIN = "float32"
RUNS = {PLAIN: Kind(kept="float32", bound=0.0), **KINDS}


@pytest.fixture(scope="module")
def sonnets() -> list[list[int]]:
    """The held-out sonnets as prompts."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    texts = SONNETS.read_text().strip().split("\n\n")[-HELD_OUT:]
    return [tokenizer.encode(text) for text in texts]


@pytest.fixture(scope="module")
def runs(sonnets: list[list[int]], forks: None) -> Runs:
    """Engines of every kind, one by one, which have read the sonnets."""
    return {name: engine_process.finish(start(sonnets, kind)) for name, kind in RUNS.items()}


def start(prompts: list[list[int]], kind: Kind) -> engine_process.Running:
    return engine_process.start(
        DEVICE,
        DEMO_MODEL,
        prompts,
        1,
        {"kv_cache_dtype": kind.setting},
        env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        logprobs=True,
        max_num_batched_tokens=CHUNK,
        **kind.options,
    )


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    """Each kind but plain float32."""
    return str(request.param)


def perplexity(logprobs: list[list[float]]) -> float:
    """Over all tokens."""
    flat = list(chain(*logprobs))
    return math.exp(-sum(flat) / len(flat))


def kept(done: Finished) -> tuple[str, int]:
    """Dtype of the KV cache and its number of blocks, as the start-up line tells them."""
    (line,) = [line for line in done.output.splitlines() if "NPU platform:" in line]
    found = re.search(r"GiB of (\w+), (\d+) blocks", line)
    assert found, line
    return found[1], int(found[2])


def test_perplexity_in_float32_is_hugging_faces(runs: Runs, sonnets: list[list[int]]) -> None:
    expected = [
        oracle.logprobs(DEMO_MODEL, ids)[range(len(ids) - 1), ids[1:]].tolist() for ids in sonnets
    ]
    assert perplexity(logprobs_of(runs[PLAIN])) == pytest.approx(perplexity(expected), rel=1e-5)


def test_perplexity_keeps_close_to_float32(runs: Runs, name: str) -> None:
    plain = perplexity(logprobs_of(runs[PLAIN]))
    assert perplexity(logprobs_of(runs[name])) == pytest.approx(plain, rel=KINDS[name].bound)


def test_logprobs_show_that_the_cache_is_read(runs: Runs, name: str) -> None:
    """In float32 they are Hugging Face's to five places."""
    plain, other = (chain(*logprobs_of(runs[each])) for each in (PLAIN, name))
    assert max(abs(one - two) for one, two in zip(plain, other, strict=True)) > 1e-3


@pytest.mark.parametrize("name", RUNS, indirect=True)
def test_the_start_up_line_tells_the_dtype_of_kv(runs: Runs, name: str) -> None:
    assert kept(runs[name])[0] == RUNS[name].kept


def test_a_smaller_dtype_leaves_room_for_more_blocks(runs: Runs, name: str) -> None:
    """Two of 2 bytes for one of 4; of quantized numbers not quite as many, as each token's 32
    numbers of a head come with 8 bytes of scale and zero point."""
    bits = {"float32": 32, "bfloat16": 16, "float16": 16, "uint8": 8 + 2, "uint4": 4 + 2}[
        RUNS[name].kept
    ]
    plain = ENGINE["kv_cache_memory_bytes"] // BLOCK_BYTES
    assert kept(runs[PLAIN])[1] == plain
    assert kept(runs[name])[1] == plain * 32 // bits

"""vLLM's own benchmarks on the sonnets run to their end.

vLLM 0.32 has no data set of the name `sonnet` any more. Instead its `create_txt_slices_dataset`
cuts a text into prompts for the data set `custom`, which `vllm bench serve` knows. `vllm bench
throughput` knows only `sharegpt` of those that read a file: a conversation there is the first
line of a sonnet, and the rest as its answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import DEMO_MODEL
from tests.prompts import SONNETS
from tests.server.conftest import COMMON
from tests.serving import VLLM, Server, run_forked

pytestmark = [pytest.mark.slow, pytest.mark.serve]

PROMPTS = 24


@pytest.fixture
def slices(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """Pieces of the sonnets, 40 to 120 tokens long, as vLLM's tool cuts them."""
    from vllm.benchmarks.datasets.create_txt_slices_dataset import create_txt_slices_jsonl

    target = tmp_path / "sonnets.jsonl"
    create_txt_slices_jsonl(
        input_path=str(SONNETS),
        output_path=str(target),
        tokenizer_name=str(tiny_model("llama")),
        num_prompts=PROMPTS,
        input_len=80,
        output_len=16,
        range_ratio=0.5,
    )
    return target


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    """Every sonnet as a question and an answer."""
    sonnets = SONNETS.read_text().strip().split("\n\n")
    turns = [sonnet.split("\n", 1) for sonnet in sonnets]
    target = tmp_path / "sonnets.json"
    target.write_text(
        json.dumps([{"conversations": [{"value": turn} for turn in pair]} for pair in turns])
    )
    return target


def test_bench_serve(
    demo: Server,
    tiny_model: Callable[[str], Path],
    slices: Path,
    tmp_path: Path,
    forks: None,
) -> None:
    done = run_forked(
        [
            *(VLLM, "bench", "serve", "--backend", "openai", "--base-url", demo.url),
            *("--model", "demo", "--tokenizer", tiny_model("llama")),
            *("--dataset-name", "custom", "--dataset-path", slices, "--skip-chat-template"),
            *("--custom-output-len", -1),
            *("--num-prompts", PROMPTS, "--max-concurrency", 8, "--ignore-eos"),
            *("--disable-tqdm", "--save-result", "--result-dir", tmp_path),
            *("--result-filename", "result.json"),
        ],
    )
    assert done.returncode == 0, done.last_lines()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["completed"] == PROMPTS
    assert result["failed"] == 0
    asked = [json.loads(line)["output_tokens"] for line in slices.read_text().splitlines()]
    assert result["total_output_tokens"] == sum(asked)


def test_bench_throughput(conversations: Path, tmp_path: Path, forks: None) -> None:
    target = tmp_path / "result.json"
    done = run_forked(
        [
            *(VLLM, "bench", "throughput", "--model", DEMO_MODEL, *COMMON),
            *("--dataset-name", "sharegpt", "--dataset-path", conversations),
            *("--num-prompts", PROMPTS, "--output-len", 16, "--output-json", target),
        ],
    )
    assert done.returncode == 0, done.last_lines()
    result = json.loads(target.read_text())
    assert result["num_requests"] == PROMPTS
    assert result["tokens_per_second"] > 0
    assert re.search(r"Throughput: [0-9.]+ requests/s", done.output)

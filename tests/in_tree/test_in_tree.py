"""Artifacts on vLLM's own CPU platform: the models package and its runtime, without our platform.

`nox -s in-tree` makes the environment for it and runs this.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import compiling
from tests.asking import expected, passage
from tests.prompts import clear_prompts
from tests.serving import Server, serve

if find_spec("vllm_npu_platform") is not None:
    reason = "our platform is installed here; `nox -s in-tree` runs this without it"
    pytest.skip(reason, allow_module_level=True)

MODEL = "demo"


@pytest.fixture(scope="module")
def path(tiny_model: Callable[[str], Path]) -> Path:
    """The checkpoint."""
    return tiny_model("llama")


@pytest.fixture(scope="module")
def server(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An artifact, on the device that it was compiled for."""
    artifact = compiling.build(path, prefill_chunk_size=64, max_batch_size=4, max_model_len=768)
    log = tmp_path_factory.mktemp("server") / "log"
    # vLLM's platform keeps a core free for itself, of which there may be two.
    env = {
        "VLLM_NPU_DEVICE": None,
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 2) - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    # The command `vllm` looks for a distribution of that name, which vllm-cpu isn't.
    command = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model")
    name = ("--served-model-name", MODEL)
    with serve(artifact, *name, env=env, log=log, command=command) as running:
        yield running


def tokens(server: Server, prompts: list[list[int]], new: int) -> list[list[int]]:
    """Greedy ones."""
    done = server.openai.completions.create(
        model=MODEL,
        prompt=prompts,
        max_tokens=new,
        temperature=0,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    return [list(choice.token_ids) for choice in done.choices]


def test_the_platform_is_vllms_own(server: Server) -> None:
    log = server.log.read_text()
    assert "Session: openvino:CPU" in log
    assert "NPU platform" not in log
    assert "max_num_batched_tokens: from" in log


def test_greedy_tokens_equal_hugging_face(server: Server, path: Path) -> None:
    prompts = clear_prompts(path, 14, 16, longest=600)
    assert tokens(server, prompts, 16) == expected(path, prompts, 16)


def test_prefixes_are_reused(server: Server, path: Path) -> None:
    prompt = passage(path, 300, 400)
    before = server.metrics()
    (first,) = tokens(server, [prompt], 8)
    longer = [*prompt, *first, *passage(path, 10)]
    (second,) = tokens(server, [longer], 8)
    assert [second] == expected(path, [longer], 8)
    name = "vllm_npu:snapshot_hit_tokens_total"
    assert server.metrics()[name] - before.get(name, 0.0) >= 300


def test_structured_output(server: Server) -> None:
    schema = {"enum": ["summer", "winter"]}
    done = server.openai.completions.create(
        model=MODEL,
        prompt="My love is",
        max_tokens=16,
        extra_body={"structured_outputs": {"json": schema}},
    )
    assert json.loads(done.choices[0].text) in schema["enum"]

"""One API server per kind of model, shared by the tests of this directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from tests.conftest import NPU
from tests.serving import VLLM_NPU, Server, run_forked, serve

COMMON = (
    *("--dtype", "float32"),
    *("--max-num-seqs", 8),
    *("--max-num-batched-tokens", 256),
    *("--kv-cache-memory-bytes", 32 << 20),
    *("--additional-config", json.dumps({"npu": NPU})),
)
"""Small buckets, so that a server starts soon; strict, so that a late compile is an error."""

STRICT = {"VLLM_NPU_STRICT": "1"}


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where servers log."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def graphs_demo(tiny_model: Callable[[str], Path], logs: Path) -> Iterator[Server]:
    """The tiny Llama as model `demo`, with at most 512 tokens a request."""
    model = tiny_model("llama")
    # A model this small would fill what a schema leaves open with blanks.
    structured = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
    arguments = (
        *COMMON,
        *("--served-model-name", "demo"),
        *("--max-model-len", 512),
        *("--structured-outputs-config", structured),
    )
    (scratch := logs / "scratch").mkdir()
    env = STRICT | {"TMPDIR": str(scratch)}
    with serve(model, *arguments, env=env, log=logs / "demo.log") as server:
        yield server
    assert not list(scratch.rglob("*.board")), "the counters' file is left"


@pytest.fixture(scope="session")
def demo(graphs_demo: Server) -> Server:
    """The server that most files ask; a file may have others in its place."""
    return graphs_demo


@pytest.fixture(scope="session")
def artifact(tiny_model: Callable[[str], Path], logs: Path, forks: None) -> Path:
    """The tiny Llama compiled by the command, for at most 512 tokens a request."""
    directory = logs / "artifact"
    limits = ("--max-model-len", 512, "--max-batch-size", 8, "--prefill-chunk-size", 128)
    done = run_forked([VLLM_NPU, "compile", tiny_model("llama"), "-o", directory, *limits])
    assert done.returncode == 0, done.last_lines()
    return directory


@pytest.fixture(scope="session")
def compiled_demo(artifact: Path, logs: Path, forks: None) -> Iterator[Server]:
    """The artifact as model `demo`; all that its scheduler needs to know is in it."""
    structured = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
    arguments = ("--served-model-name", "demo", "--structured-outputs-config", structured)
    env = {"VLLM_NPU_DEVICE": "openvino:CPU"}
    log = logs / "artifact.log"
    with serve(artifact, *arguments, env=env, log=log, forked=True) as server:
        yield server


@pytest.fixture
def client(demo: Server) -> openai.OpenAI:
    """The official client of `demo`."""
    return demo.openai

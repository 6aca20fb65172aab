"""The compile cache: a second start compiles nothing, and no state of the disk stops an engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import engine_process
from tests.asking import expected
from tests.engine_process import compiled, tokens_of
from tests.prompts import clear_prompts
from tests.serving import Finished

DEVICE = "openvino:CPU"
NEW_TOKENS = 8
GRAPHS = 2  # the forward pass and the head


class Model:
    """A tiny model, and engines that serve it from one cache or another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prompts = clear_prompts(path, 4, NEW_TOKENS, longest=200)

    def start(self, cache: Path, **env: str) -> engine_process.Running:
        """Start an engine that keeps its graphs in `cache`."""
        # In the process itself, whose counters are asked for.
        variables = {"VLLM_CACHE_ROOT": str(cache), "VLLM_ENABLE_V1_MULTIPROCESSING": "0", **env}
        return engine_process.start(DEVICE, self.path, self.prompts, NEW_TOKENS, env=variables)

    def run(self, cache: Path, **env: str) -> Finished:
        """Run one to its end; its tokens are right, whatever became of the cache."""
        done = engine_process.finish(self.start(cache, **env))
        self.check(done)
        return done

    def check(self, done: Finished) -> None:
        """Compare its tokens with Hugging Face's."""
        assert tokens_of(done) == expected(self.path, self.prompts, NEW_TOKENS)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path], forks: None) -> Model:
    return Model(tiny_model("llama"))


@pytest.fixture(scope="module")
def filled(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a first start has filled."""
    cache = tmp_path_factory.mktemp("cache")
    first = compiled(model.run(cache))
    assert (first["graphs"], first["loaded"]) == (GRAPHS, 0)
    assert first["frames"] > 0
    return cache


@pytest.fixture
def copy(filled: Path, tmp_path: Path) -> Iterator[Path]:
    """The same cache, to be damaged."""
    yield Path(shutil.copytree(filled, tmp_path / "copy"))


@pytest.fixture
def empty(filled: Path, tmp_path: Path) -> Path:
    """A cache without graphs; what vLLM knows of model classes stays, which takes seconds."""
    shutil.copytree(filled / "modelinfos", tmp_path / "modelinfos")
    return tmp_path


def graph_files(cache: Path, name: str) -> list[Path]:
    found = sorted(cache.glob(f"npu/*/*/{name}"))
    assert found
    return found


def test_the_second_start_traces_and_compiles_nothing(model: Model, filled: Path) -> None:
    assert compiled(model.run(filled)) == {"graphs": 0, "loaded": GRAPHS, "frames": 0}


def test_damaged_graphs_are_named_and_compiled_anew(model: Model, copy: Path) -> None:
    """One cut short, and one that another version of the suite has written."""
    short = next(path for path in graph_files(copy, "model.xml") if "tokens" in str(path))
    short.write_bytes(short.read_bytes()[:1000])
    foreign = next(path for path in graph_files(copy, "manifest.json") if "logits" in str(path))
    manifest = json.loads(foreign.read_text())
    manifest["suite"] = "0.0.1"
    foreign.write_text(json.dumps(manifest))
    done = model.run(copy)
    assert compiled(done)["graphs"] == GRAPHS
    said = done.output
    assert str(short.parent) in said
    assert str(foreign.parent) in said
    assert compiled(model.run(copy))["loaded"] == GRAPHS


def test_a_cache_that_cannot_be_written_is_said_and_does_without(model: Model, empty: Path) -> None:
    (empty / "npu").write_text("a file where the cache would be")
    done = model.run(empty)
    assert compiled(done)["graphs"] == GRAPHS
    assert "can't be written" in done.output


def test_switched_off_nothing_is_kept(model: Model, empty: Path) -> None:
    done = model.run(empty, VLLM_DISABLE_COMPILE_CACHE="1")
    assert compiled(done)["graphs"] == GRAPHS
    assert not (empty / "npu").exists()


def test_of_two_engines_at_once_one_compiles_and_both_serve(model: Model, empty: Path) -> None:
    both = [model.start(empty) for _ in range(2)]
    counts = []
    for process in both:
        done = engine_process.finish(process)
        model.check(done)
        counts.append(compiled(done))
    assert sum(count["graphs"] for count in counts) == GRAPHS
    assert sum(count["loaded"] for count in counts) == GRAPHS

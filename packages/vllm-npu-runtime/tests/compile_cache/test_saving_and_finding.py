"""Graphs that are saved, and found by a later start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vllm_npu_runtime import __version__
from vllm_npu_runtime.compile_cache import CacheKey, CompileCache

from .graphs import FILES, KEY, NAME, PROGRAM, saved, write


def test_what_was_saved_is_found_by_another_start(root: Path, lines: list[str]) -> None:
    assert CompileCache(root, KEY).save(NAME, PROGRAM, write)
    found = CompileCache(root, KEY).find(NAME)
    assert found is not None
    assert {name: (found.directory / name).read_bytes() for name in FILES} == FILES
    assert lines == []


def test_a_found_program_has_its_bindings_the_weights_given_and_no_graph(
    cache: CompileCache,
) -> None:
    saved(cache)
    found = cache.find(NAME)
    assert found is not None
    weights = {"w": torch.zeros(16, 4).to(torch.float8_e4m3fn)}
    program = found.program(weights)
    assert (program.name, program.inputs, program.outputs) == (
        PROGRAM.name,
        PROGRAM.inputs,
        PROGRAM.outputs,
    )
    assert program.weights == weights and found.program().weights == {}
    assert list(program.graph.graph.nodes) == []


def test_nothing_is_found_before_it_is_saved(cache: CompileCache, lines: list[str]) -> None:
    assert cache.find(NAME) is None
    saved(cache)
    assert cache.find("tokens=32") is None
    assert lines == []


def test_graphs_of_another_configuration_are_not_found(cache: CompileCache, root: Path) -> None:
    saved(cache)
    assert CompileCache(root, CacheKey({**KEY.parts, "torch": "2.14.0"})).find(NAME) is None


def test_the_layout_is_as_documented(cache: CompileCache, root: Path) -> None:
    with cache.lock("draft:tokens=64"):
        saved(cache, "draft:tokens=64")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    graph = f"{KEY.digest}/draft%3Atokens=64"
    written = {f"{graph}/{name}" for name in (*FILES, "manifest.json")}
    assert found == {f"{KEY.digest}/key.json", f"{graph}.lock", *written}


def test_the_key_is_written_in_clear(cache: CompileCache) -> None:
    saved(cache)
    written = json.loads((cache.directory / "key.json").read_text())
    assert (written["parts"], written["suite"]) == (dict(KEY.parts), __version__)
    assert written["created"].startswith("20")


def test_a_graph_saved_again_replaces_the_older(cache: CompileCache) -> None:
    older = saved(cache)

    def write_newer(directory: Path) -> bool:
        (directory / "newer.bin").write_bytes(b"newer")
        return True

    assert cache.save(NAME, PROGRAM, write_newer)
    found = cache.find(NAME)
    assert found is not None and found.directory == older
    assert sorted(os.listdir(older)) == ["manifest.json", "newer.bin"]
    assert sorted(os.listdir(cache.directory)) == ["key.json", NAME]


@pytest.mark.parametrize("kind", ["file", "link", "empty directory"])
def test_whatever_lies_in_a_graphs_place_is_replaced(
    cache: CompileCache, tmp_path: Path, kind: str
) -> None:
    place = cache.directory / NAME
    place.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    if kind == "file":
        place.touch()
    elif kind == "link":
        place.symlink_to(elsewhere)
    else:
        place.mkdir()
    assert saved(cache) == place and not place.is_symlink()
    assert (elsewhere / "precious").exists()


def test_a_driver_with_nothing_to_save_leaves_nothing_behind(
    cache: CompileCache, lines: list[str]
) -> None:
    def write_nothing(directory: Path) -> bool:
        (directory / "scratch").touch()
        return False

    assert cache.save(NAME, PROGRAM, write_nothing) is False
    assert os.listdir(cache.directory) == [] and lines == []
    assert cache.save(NAME, PROGRAM, write), "a later graph may be worth saving"


def test_an_unexpected_error_of_a_driver_is_not_hidden_and_leaves_nothing_behind(
    cache: CompileCache,
) -> None:
    def write_wrongly(directory: Path) -> bool:
        (directory / "half").touch()
        raise TypeError("a driver's mistake")

    with pytest.raises(TypeError, match="a driver's mistake"):
        cache.save(NAME, PROGRAM, write_wrongly)
    assert os.listdir(cache.directory) == []


def test_finding_a_graph_notes_when_it_was_used(cache: CompileCache) -> None:
    saved(cache)
    key = cache.directory / "key.json"
    os.utime(key, (0, 0))
    cache.find("tokens=32")
    assert key.stat().st_mtime == 0
    cache.find(NAME)
    assert key.stat().st_mtime > 0


def test_a_discarded_graph_is_gone_with_a_line_that_says_why(
    cache: CompileCache, lines: list[str]
) -> None:
    directory = saved(cache)
    cache.discard(NAME, "the driver can't read it")
    assert not directory.exists() and cache.find(NAME) is None
    (line,) = lines
    assert str(directory) in line and "the driver can't read it. It is compiled anew." in line


def test_the_cache_imports_torch_only_for_a_graph() -> None:
    code = (
        "import sys, vllm_npu_runtime.compile_cache, vllm_npu_runtime.compile_cache.inventory\n"
        "sys.exit(' '.join({'torch', 'vllm'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

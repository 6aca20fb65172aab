"""Engines that start at once compile each graph once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_npu_runtime.compile_cache import CacheKey, CompileCache, inventory, locking

from .graphs import NAME, saved

SCRIPT = Path(__file__).with_name("engine.py")
SHARED = CacheKey({"model": "shared"})

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """Starts an engine of its own process; see `engine.py`."""
    running: list[subprocess.Popen[str]] = []

    def start_one(manner: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), str(root), manner]
        engine = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(engine)
        return engine

    yield start_one
    for engine in running:
        engine.kill()
        engine.communicate()


def line_of(engine: subprocess.Popen[str]) -> str:
    assert engine.stdout is not None
    return engine.stdout.readline().strip()


def test_one_compiles_and_the_other_loads_what_it_saved(
    root: Path, tmp_path: Path, start: Start
) -> None:
    first = start("wait")
    assert line_of(first) == "compiling"
    second = start("wait")
    assert line_of(second).startswith(f"Another engine is compiling '{NAME}'")
    (tmp_path / "go").touch()
    assert line_of(first) == "saved: True"
    assert line_of(second) == "loaded: compiled by one engine"
    assert (first.wait(60), second.wait(60)) == (0, 0)


def test_an_engine_that_dies_while_it_writes_stops_nobody_and_leaves_nothing_for_long(
    root: Path, start: Start
) -> None:
    dead = start("die")
    assert dead.wait(120) == 9
    cache = CompileCache(root, SHARED)
    half = [name for name in os.listdir(cache.directory) if name.endswith(".tmp")]
    assert len(half) == 1
    with cache.lock("tokens=6"):
        assert half[0] in os.listdir(cache.directory), "another graph's may still be written"
    with cache.lock(NAME):
        assert cache.find(NAME) is None
        assert half[0] not in os.listdir(cache.directory)
        saved(cache)


def test_different_graphs_are_compiled_at_once(cache: CompileCache, lines: list[str]) -> None:
    with cache.lock(NAME), cache.lock("tokens=32"):
        pass
    assert lines == []


def test_a_short_wait_is_not_worth_a_line(cache: CompileCache, lines: list[str]) -> None:
    order: list[str] = []
    entered = threading.Event()

    def other() -> None:
        with cache.lock(NAME):
            entered.set()
            time.sleep(locking.PATIENCE / 4)
            order.append("first")

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    with cache.lock(NAME):
        order.append("second")
    thread.join()
    assert order == ["first", "second"] and lines == []


def test_a_lock_whose_directory_is_cleared_in_that_moment_is_made_anew(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, made = Path.mkdir, []

    def mkdir_and_lose_it_once(path: Path, *arguments: int, **options: bool) -> None:
        mkdir(path, *arguments, **options)
        if path == cache.directory and not made:
            made.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir_and_lose_it_once)
    with cache.lock(NAME):
        assert made and os.listdir(cache.directory) == [f"{NAME}.lock"]


def test_an_engine_goes_on_in_a_cache_that_was_cleared_under_it(
    cache: CompileCache, root: Path, lines: list[str]
) -> None:
    saved(cache)
    assert not inventory.clear(inventory.entries(root)).kept
    with cache.lock(NAME):
        assert cache.find(NAME) is None
        saved(cache)
    assert lines == []

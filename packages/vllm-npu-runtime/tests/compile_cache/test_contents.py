"""What people can learn of the cache's contents, and what clearing it leaves alone."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from vllm_npu_runtime.compile_cache import CacheKey, CompileCache, inventory
from vllm_npu_runtime.compile_cache.inventory import chosen, clear, entries, sweep, verify
from vllm_npu_runtime.compile_cache.names import beside
from vllm_npu_runtime.errors import ConfigurationError

from .graphs import FILES, KEY, NAME, PROGRAM, saved, write

DAY = 86400


def unused_for(cache: CompileCache, days: float) -> None:
    """Pretend that nothing used it for so long."""
    then = time.time() - days * DAY
    os.utime(cache.directory / "key.json", (then, then))


@pytest.fixture
def other(root: Path) -> CompileCache:
    """Another configuration's graphs, one of them, unused for ten days."""
    cache = CompileCache(root, CacheKey({"model": "acme/other", "device": "acme:1"}))
    saved(cache)
    unused_for(cache, 10)
    return cache


def test_an_entry_says_what_it_is_for(cache: CompileCache, root: Path) -> None:
    saved(cache)
    saved(cache, "draft:tokens=64")
    (entry,) = entries(root)
    assert (entry.digest, entry.directory) == (KEY.digest, cache.directory)
    assert (entry.model, entry.device, entry.graphs) == ("acme/tiny", "acme:NPU", 2)
    assert entry.size == sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
    assert entry.size > 2 * sum(map(len, FILES.values()))
    assert entry.created and entry.used and entry.used >= entry.created
    assert entry.problem is None


def test_what_was_used_last_comes_first(
    cache: CompileCache, other: CompileCache, root: Path
) -> None:
    saved(cache)
    assert [entry.model for entry in entries(root)] == ["acme/tiny", "acme/other"]
    unused_for(cache, 20)
    assert [entry.model for entry in entries(root)] == ["acme/other", "acme/tiny"]


def test_no_directory_is_an_empty_cache(root: Path) -> None:
    assert entries(root) == []


def test_a_directory_that_cannot_be_read_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="can't be read: Not a directory"):
        entries(tmp_path / "file")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1, "suite": "0", "created": "x", "parts": {}}']
)
def test_an_entry_with_a_damaged_key_is_shown_with_its_problem(
    cache: CompileCache, root: Path, text: str
) -> None:
    saved(cache)
    (cache.directory / "key.json").write_text(text)
    (entry,) = entries(root)
    assert entry.problem and "key.json" in entry.problem and entry.graphs == 1
    assert verify(entry) and not clear([entry]).kept


def test_a_key_that_is_a_pipe_holds_nobody_up(cache: CompileCache, root: Path) -> None:
    saved(cache)
    (cache.directory / "key.json").unlink()
    os.mkfifo(cache.directory / "key.json")
    (entry,) = entries(root)
    assert entry.problem == "key.json is not a regular file"
    assert verify(entry) == [f"{cache.directory}: key.json is not a regular file"]


def test_control_characters_of_a_key_are_not_shown(root: Path) -> None:
    cache = CompileCache(root, CacheKey({"model": "evil\x1b[2J\nmodel", "device": ["a list"]}))
    saved(cache)
    (entry,) = entries(root)
    assert entry.model == "evil\N{REPLACEMENT CHARACTER}[2J model" and entry.device == ""


def test_nothing_is_wrong_with_what_was_just_saved(cache: CompileCache, root: Path) -> None:
    with cache.lock("tokens=64"):
        saved(cache)
    (entry,) = entries(root)
    assert verify(entry) == []


def test_every_damaged_graph_is_named(cache: CompileCache, root: Path) -> None:
    for number in range(3):
        saved(cache, f"tokens={number}")
    for number in range(2):
        (cache.directory / f"tokens={number}" / "graph.bin").write_bytes(b"")
    (cache.directory / "stray").touch()
    (entry,) = entries(root)
    first, second, third = sorted(verify(entry))
    assert first.startswith(f"{cache.directory / 'stray'}: it is not a directory")
    assert second.startswith(f"{cache.directory / 'tokens=0'}: file 'graph.bin' has 0 bytes")
    assert third.startswith(f"{cache.directory / 'tokens=1'}: ")
    assert (cache.directory / "tokens=0").exists(), "verifying changes nothing"


def test_a_key_that_was_edited_is_named(cache: CompileCache, root: Path) -> None:
    saved(cache)
    path = cache.directory / "key.json"
    path.write_text(path.read_text().replace("acme/tiny", "acme/huge"))
    (entry,) = entries(root)
    assert verify(entry) == [f"{cache.directory}: key.json belongs to another key"]


def test_graphs_of_another_version_of_the_suite_can_be_whole(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("key", "manifest"):
        monkeypatch.setattr(f"vllm_npu_runtime.compile_cache.{module}.__version__", "0.0.9")
    cache = CompileCache(root, KEY)
    assert cache.save(NAME, PROGRAM, write)
    monkeypatch.undo()
    (entry,) = entries(root)
    assert entry.suite == "0.0.9" and verify(entry) == []


def test_another_format_cannot_be_verified(cache: CompileCache, root: Path) -> None:
    saved(cache)
    path = cache.directory / "key.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    (entry,) = entries(root)
    with pytest.raises(ConfigurationError, match="its format is 2"):
        verify(entry)


def test_clearing_frees_what_was_listed(
    cache: CompileCache, other: CompileCache, root: Path
) -> None:
    with cache.lock("tokens=64"):
        saved(cache)
    found = entries(root)
    done = clear(found)
    assert done.removed == found and done.kept == []
    assert done.freed == sum(entry.size for entry in found) > 0
    assert os.listdir(root) == []


def test_entries_are_chosen_by_the_first_digits_of_a_key(
    cache: CompileCache, other: CompileCache, root: Path
) -> None:
    saved(cache)
    assert [e.digest for e in chosen(entries(root), KEY.digest[:6])] == [KEY.digest]
    for digits in ("xyz", ""):
        with pytest.raises(ConfigurationError, match=f"begins with '{digits}'"):
            chosen(entries(root), digits)


def test_entries_are_chosen_by_the_time_since_they_were_used(
    cache: CompileCache, other: CompileCache, root: Path
) -> None:
    saved(cache)
    found = entries(root)
    assert [entry.model for entry in chosen(found, None, timedelta(days=9))] == ["acme/other"]
    assert chosen(found, None, timedelta(days=11)) == []
    assert len(chosen(found, None, timedelta())) == 2


def test_what_is_not_the_caches_own_is_neither_listed_nor_cleared(
    cache: CompileCache, root: Path, tmp_path: Path
) -> None:
    saved(cache)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "key.json").touch()
    (root / ("a" * 32)).symlink_to(tmp_path / "elsewhere")
    (root / ("b" * 32)).touch()
    for name in ("torch_compile_cache", "c" * 31, "D" * 32, "e" * 33):
        (root / name).mkdir()
        (root / name / "key.json").touch()
    (root / ("f" * 32)).mkdir()
    (root / ("f" * 32) / "thesis.tex").touch()
    before = set(os.listdir(root))
    assert [entry.digest for entry in entries(root)] == [KEY.digest]
    clear(entries(root))
    sweep(root)
    assert set(os.listdir(root)) == before - {KEY.digest}
    assert (tmp_path / "elsewhere" / "key.json").exists()


def test_locks_without_graphs_are_cleared_too(cache: CompileCache, root: Path) -> None:
    with cache.lock("tokens=64"):
        pass
    (entry,) = entries(root)
    assert (entry.graphs, entry.size, verify(entry)) == (0, 0, [])
    clear([entry])
    assert os.listdir(root) == []


def test_what_an_engine_compiles_into_stays(
    cache: CompileCache, other: CompileCache, root: Path
) -> None:
    saved(cache)
    with cache.lock("tokens=32"):
        done = clear(entries(root))
    assert [entry.model for entry in done.removed] == ["acme/other"]
    ((entry, reason),) = done.kept
    assert (entry.digest, reason) == (KEY.digest, "an engine is compiling into it")
    assert verify(entry) == []


def test_what_cannot_be_removed_is_said(
    cache: CompileCache, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(cache)

    def refuse(path: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(inventory, "set_aside", refuse)
    ((entry, reason),) = clear(entries(root)).kept
    assert reason == f"{entry.directory}: Permission denied"


def test_what_an_interrupted_clearing_left_is_swept_up(cache: CompileCache, root: Path) -> None:
    saved(cache)
    cache.directory.rename(beside(cache.directory))
    (root / ".hidden.0123456789abcdef.tmp").mkdir()
    sweep(root)
    assert os.listdir(root) == [".hidden.0123456789abcdef.tmp"]

"""A cache that can't be read or written costs time, never a start."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_npu_runtime.compile_cache import CompileCache, files
from vllm_npu_runtime.errors import DeviceError, NPUError

from .graphs import KEY, NAME, PROGRAM, saved, write

Write = Callable[[Path], bool]


def failing(error: Exception) -> Write:
    """A driver that writes some of its files, and fails."""

    def write_half(directory: Path) -> bool:
        write(directory)
        raise error

    return write_half


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only file system"),
        (DeviceError("The compiled graph\ncan't be exported."), "graph can't be exported"),
        (RuntimeError("a vendor's own words"), "a vendor's own words"),
    ],
    ids=["full", "read-only", "typed", "vendor"],
)
def test_a_failing_save_is_one_line_and_leaves_nothing_behind(
    cache: CompileCache, lines: list[str], error: Exception, reason: str
) -> None:
    assert cache.save(NAME, PROGRAM, failing(error)) is False
    (line,) = lines
    assert f"{cache.directory} can't be written: " in line and reason in line
    assert "Graphs are compiled at every start." in line and "\n" not in line and ".." not in line
    assert os.listdir(cache.directory) == []


def test_after_a_failing_save_nothing_more_is_written(
    cache: CompileCache, root: Path, lines: list[str]
) -> None:
    cache.save(NAME, PROGRAM, failing(NPUError("once")))
    asked: list[Path] = []
    assert cache.save("tokens=32", PROGRAM, lambda path: bool(asked.append(path))) is False
    assert asked == [] and len(lines) == 1
    assert CompileCache(root, KEY).save(NAME, PROGRAM, write), "the next start tries again"


@pytest.mark.parametrize("step", ["sync", "write_whole"])
def test_a_disk_that_fills_up_in_the_cache_s_own_files_is_the_same(
    cache: CompileCache, lines: list[str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "sync", full)
    if step == "write_whole":
        monkeypatch.setattr(files, "sync_all", lambda directory: None)
    assert cache.save(NAME, PROGRAM, write) is False
    assert len(lines) == 1 and "No space left on device" in lines[0]
    assert os.listdir(cache.directory) == []


def test_an_older_graph_survives_a_failing_save(cache: CompileCache) -> None:
    saved(cache)
    cache.save(NAME, PROGRAM, failing(OSError(errno.ENOSPC, "No space left on device")))
    assert cache.find(NAME) is not None


def test_files_are_on_the_disk_before_they_have_their_name(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        events.append(f"named {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    saved(cache)
    named = events.index(f"named {NAME}")
    assert {"graph.bin", "constants.bin", "parts", "manifest.json"} <= set(events[:named])
    assert events[named + 1 :] == [KEY.digest]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (lambda path: link_somewhere(path), "is not a regular file"),
        (lambda path: bool((path / "manifest.json").write_text("{}")), "the cache's own"),
    ],
    ids=["link", "manifest"],
)
def test_a_driver_that_writes_what_cannot_be_kept_is_told(
    cache: CompileCache, lines: list[str], place: Write, text: str
) -> None:
    assert cache.save(NAME, PROGRAM, place) is False
    assert text in lines[0] and cache.find(NAME) is None


def link_somewhere(directory: Path) -> bool:
    (directory / "link").symlink_to("/etc/hostname")
    return True


@pytest.fixture
def nowhere(tmp_path: Path) -> CompileCache:
    """A cache whose directory can't be made, for root neither: a file is in its place."""
    (tmp_path / "file").touch()
    return CompileCache(tmp_path / "file", KEY)


def test_a_directory_that_cannot_be_made_is_one_line(
    nowhere: CompileCache, lines: list[str]
) -> None:
    assert nowhere.save(NAME, PROGRAM, write) is False
    assert nowhere.save(NAME, PROGRAM, write) is False
    (line,) = lines
    assert f"{nowhere.directory} can't be written: " in line


def test_a_directory_that_cannot_be_read_is_one_line_for_all_graphs(
    nowhere: CompileCache, lines: list[str]
) -> None:
    assert nowhere.find(NAME) is None and nowhere.find("tokens=32") is None
    (line,) = lines
    assert "can't be read: Not a directory. Graphs are compiled anew." in line


def test_a_file_that_cannot_be_read_is_kept(
    cache: CompileCache, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = saved(cache)
    opened = Path.open

    def deny(path: Path, *arguments: str, **options: object) -> object:
        if path.name == "graph.bin":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", deny)
    assert cache.find(NAME) is None
    (line,) = lines
    assert "graph.bin can't be read: Permission denied" in line and directory.exists()


def test_where_nothing_can_be_locked_the_work_goes_on(
    nowhere: CompileCache, lines: list[str]
) -> None:
    entered = False
    with nowhere.lock(NAME):
        entered = True
    assert entered and lines == []


def test_an_error_under_a_lock_frees_it(cache: CompileCache, lines: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), cache.lock(NAME):
        _ = 1 / 0
    with cache.lock(NAME):
        assert lines == []

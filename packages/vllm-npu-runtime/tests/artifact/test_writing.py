"""Writing an artifact: all of it appears, or nothing."""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from pathlib import Path

import pytest

from vllm_npu_runtime.artifact import writing
from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.artifact.writing import check_space, staged
from vllm_npu_runtime.errors import ConfigurationError

from .directories import fill


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "artifact"
    with staged(target) as stage:
        assert not target.exists() and stage.parent == target.parent
        fill(stage)
    Artifact.open(target)
    assert names(target.parent) == ["artifact"]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    target.mkdir()
    with staged(target) as stage:
        fill(stage)
    Artifact.open(target)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staged(tmp_path / "artifact") as stage:
        fill(stage)
        raise error
    assert names(tmp_path) == []


def test_a_failure_leaves_what_was_there(directory: Path) -> None:
    before = Artifact.open(directory).identity
    with pytest.raises(RuntimeError), staged(directory, force=True) as stage:
        fill(stage, source="new")
        raise RuntimeError
    assert Artifact.open(directory).identity == before
    assert names(directory.parent) == [directory.name]


def test_a_directory_that_is_there_is_refused(directory: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"exists already.*--force"), staged(directory):
        pytest.fail("nothing is begun")


def test_force_replaces_an_artifact(directory: Path) -> None:
    with staged(directory, force=True) as stage:
        fill(stage, source="new")
    assert Artifact.open(directory).manifest.source == "new"
    assert names(directory.parent) == [directory.name]


def test_force_replaces_a_damaged_artifact(directory: Path) -> None:
    (directory / "npu_artifact.json").write_text("{")
    with staged(directory, force=True) as stage:
        fill(stage, source="new")
    assert Artifact.open(directory).manifest.source == "new"


def test_force_replaces_nothing_but_artifacts(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("…")
    refused = pytest.raises(ConfigurationError, match="holds no artifact")
    with refused, staged(tmp_path / "home", force=True):
        pytest.fail("nothing is begun")
    assert names(tmp_path / "home") == ["thesis.txt"]


@pytest.mark.parametrize("force", [True, False])
def test_a_file_or_a_link_is_refused(directory: Path, tmp_path: Path, force: bool) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(directory)
    for name in ("file", "link"):
        refused = pytest.raises(ConfigurationError, match="is a link or a file")
        with refused, staged(tmp_path / name, force):
            pytest.fail("nothing is begun")


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with pytest.raises(ConfigurationError, match="exists already"), staged(target) as stage:
        fill(stage)
        target.mkdir()
        fill(target, source="other")
    assert Artifact.open(target).manifest.source == "other"
    assert names(tmp_path) == ["artifact"]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    told = pytest.raises(ConfigurationError, match=r"disk of .*artifact is full.*nothing was left")
    with told, staged(tmp_path / "artifact") as stage:
        fill(stage)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_a_place_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = pytest.raises(ConfigurationError, match="can't be written")
    with told, staged(tmp_path / "file" / "artifact"):
        pytest.fail("nothing is begun")


def test_too_little_room_is_told_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(2**40, 2**40 - 2**30, 2**30)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: usage)
    check_space(tmp_path / "not" / "yet", 2**30)
    with pytest.raises(ConfigurationError, match=r"takes 2\.0 GiB.*has 1\.0 GiB left"):
        check_space(tmp_path / "not" / "yet", 2**31)

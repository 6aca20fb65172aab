"""Directories that can't be used are refused at the start; one that fails later costs blocks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_npu_kv_connector.tiers import directory
from vllm_npu_kv_connector.tiers.breaker import CircuitBreaker
from vllm_npu_kv_connector.tiers.directory import DirectoryStore
from vllm_npu_kv_connector.tiers.store import Event, Outage, StoreUnavailableError
from vllm_npu_runtime.errors import ConfigurationError

from .blocks import BLOCK, MODEL, ON_DISK, content, key
from .test_directory import files, holds, open_store

ROOT_USER = os.geteuid() == 0
Mounted = Callable[..., Path]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """A file system of its own, in memory; called again, it is mounted with other options."""
    place = tmp_path / "disk"
    place.mkdir(mode=0o700)

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"{options},mode=0700", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting needs the right to (CAP_SYS_ADMIN)")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


# At the start.


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for root in (file, file / "below"):
        with pytest.raises(ConfigurationError, match=r"file.*is not a directory.*Name"):
            open_store(root)


def test_a_limit_below_one_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"max_bytes={ON_DISK - 1}.*{ON_DISK} bytes"):
        DirectoryStore(tmp_path / "kv", MODEL, block_bytes=BLOCK, max_bytes=ON_DISK - 1)
    assert not (tmp_path / "kv").exists()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"others may write to it.*chmod go-w"):
        open_store(tmp_path)


def test_a_directory_that_others_may_only_read_will_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    open_store(tmp_path).write(key(1), content(1))
    below = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert [path.stat().st_mode & 0o077 for path in below] == [0] * len(below)


@pytest.mark.skipif(not ROOT_USER, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(ConfigurationError, match=r"belongs to user 12345.*chown 0"):
        open_store(tmp_path)


@pytest.mark.skipif(ROOT_USER, reason="root may write anywhere")
def test_a_directory_that_the_user_may_not_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for root in (tmp_path, tmp_path / "kv"):
        with pytest.raises(ConfigurationError, match="Permission denied"):
            open_store(root)


def test_a_disk_that_is_read_only_at_the_start_is_refused(mounted: Mounted) -> None:
    place = mounted("size=1m,ro")
    for root in (place, place / "kv"):
        with pytest.raises(ConfigurationError, match="Read-only file system"):
            open_store(root)


# Later.


def test_a_disk_that_fills_up_costs_blocks_and_nothing_else(mounted: Mounted, caplog) -> None:
    store = open_store(mounted("size=256k") / "kv")
    failures = []
    for number in range(40):
        try:
            store.write(key(number), content(number))
        except StoreUnavailableError as error:
            failures.append(error.outage)
    assert failures[0] is Outage.FULL
    assert set(failures[1:]) == {Outage.PAUSED}
    assert holds(store, 0)
    counts = store.tally.take()
    assert counts[Event.UNAVAILABLE, Outage.FULL] == 1
    assert counts[Event.UNAVAILABLE, Outage.PAUSED] == len(failures) - 1
    assert [record.message for record in caplog.records if "No space left" in record.message]
    assert len(caplog.records) == 1


def test_a_disk_that_becomes_read_only_is_still_read(mounted: Mounted, caplog) -> None:
    root = mounted("size=1m") / "kv"
    store = open_store(root)
    store.write(key(1), content(1))
    mounted("size=1m,remount,ro")
    for outage in (Outage.READ_ONLY, Outage.PAUSED):
        with pytest.raises(StoreUnavailableError) as error:
            store.write(key(2), content(2))
        assert error.value.outage is outage
    assert holds(store, 1)
    assert ["Read-only file system" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("number", "outage"),
    [
        (errno.ENOSPC, Outage.FULL),
        (errno.EDQUOT, Outage.FULL),
        (errno.EROFS, Outage.READ_ONLY),
        (errno.EACCES, Outage.READ_ONLY),
        (errno.EIO, Outage.FAILED),
    ],
)
def test_a_write_that_fails_halfway_leaves_nothing(
    tmp_path: Path, monkeypatch, caplog, number: int, outage: Outage
) -> None:
    store, writev = open_store(tmp_path / "kv"), os.writev

    def halfway(file: int, pieces) -> int:
        if len(pieces) == 1:
            raise OSError(number, os.strerror(number))
        return writev(file, pieces[:1])

    monkeypatch.setattr(os, "writev", halfway)
    with pytest.raises(StoreUnavailableError) as error:
        store.write(key(1), content(1))
    assert error.value.outage is outage
    assert store.tally.take() == {(Event.UNAVAILABLE, outage): 1}
    assert store.kept_bytes() == 0
    assert not files(tmp_path) and not list((tmp_path / "kv" / "writing").iterdir())
    assert [os.strerror(number) in record.message for record in caplog.records] == [True]


def test_writing_goes_on_once_there_is_room(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        directory,
        "CircuitBreaker",
        lambda *values: CircuitBreaker(*values, first_pause_s=0.01),
    )
    store, writev = open_store(tmp_path / "kv"), os.writev

    def full(file: int, pieces) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(StoreUnavailableError):
        store.write(key(1), content(1))
    monkeypatch.setattr(os, "writev", writev)
    time.sleep(0.02)
    store.write(key(1), content(1))
    assert holds(store, 1)


def test_a_file_where_a_directory_should_be_costs_its_blocks(tmp_path: Path, caplog) -> None:
    store = open_store(tmp_path / "kv")
    place = tmp_path / "kv" / "v1" / MODEL
    place.mkdir(parents=True)
    (place / key(1).hex()[:2]).touch()
    with pytest.raises(StoreUnavailableError):
        store.write(key(1), content(1))
    with pytest.raises(StoreUnavailableError):
        store.read(key(1), content(1))
    assert store.contains([key(1)]) == [False]
    assert len(caplog.records) == 2


def test_a_directory_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    store = open_store(root)
    store.write(key(1), content(1))
    shutil.rmtree(root)
    assert not holds(store, 1)
    assert store.kept_bytes() is None
    store.write(key(2), content(2))
    assert holds(store, 2)
    assert root.stat().st_mode & 0o077 == 0

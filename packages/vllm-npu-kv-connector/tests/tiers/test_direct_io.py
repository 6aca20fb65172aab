"""Files go around the page cache where the file system and the memory allow it."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

import pytest
from vllm.v1.kv_offload.tiering.fs.io import probe_o_direct

from vllm_npu_kv_connector.tiers import directory
from vllm_npu_kv_connector.tiers.block_format import HEADER_BYTES, Rejection
from vllm_npu_kv_connector.tiers.directory import DirectoryStore
from vllm_npu_kv_connector.tiers.store import BlockCorruptError

from .blocks import MODEL, content, key

PAGES = 2 * mmap.PAGESIZE


def memory(size: int, offset: int) -> memoryview:
    """So many bytes, which start that far behind the start of a page."""
    return memoryview(mmap.mmap(-1, size + mmap.PAGESIZE))[offset : offset + size]


def filled(size: int, offset: int) -> memoryview:
    view = memory(size, offset)
    view[:] = content(1, size)
    return view


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each call that reads or writes, whether it goes around the page cache."""
    calls: list[bool] = []
    for name in ("writev", "readv"):
        real = getattr(os, name)

        def spied(descriptor, pieces, real=real):
            calls.append(bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT))
            return real(descriptor, pieces)

        monkeypatch.setattr(os, name, spied)
    return calls


@pytest.fixture
def root(tmp_path: Path) -> Path:
    if not probe_o_direct(str(tmp_path)):
        pytest.skip("this file system has no direct I/O")
    return tmp_path / "kv"


def open_store(root: Path, block_bytes: int = PAGES) -> DirectoryStore:
    return DirectoryStore(root, MODEL, block_bytes=block_bytes, max_bytes=1 << 20)


def test_whole_pages_are_written_and_read_directly(root: Path, direct: list[bool]) -> None:
    store, into = open_store(root), memory(PAGES, 0)
    store.write(key(1), filled(PAGES, 0))
    store.read(key(1), into)
    assert into == content(1, PAGES)
    assert direct == [True, True]


@pytest.mark.parametrize(("written", "read"), [(0, 64), (64, 0), (64, 64)])
def test_memory_that_starts_within_a_page_goes_through_the_cache(
    root: Path, direct: list[bool], written: int, read: int
) -> None:
    store, into = open_store(root), memory(PAGES, read)
    store.write(key(1), filled(PAGES, written))
    store.read(key(1), into)
    assert into == content(1, PAGES)
    assert direct == [written == 0, read == 0]


def test_blocks_of_broken_pages_go_through_the_cache(root: Path, direct: list[bool]) -> None:
    store, into = open_store(root, PAGES + 100), memory(PAGES + 100, 0)
    store.write(key(1), filled(PAGES + 100, 0))
    store.read(key(1), into)
    assert into == content(1, PAGES + 100)
    assert direct == [False, False]


def test_a_file_system_without_it_is_used_all_the_same(
    root: Path, direct: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "probe_o_direct", lambda path: False)
    store, into = open_store(root), memory(PAGES, 0)
    store.write(key(1), filled(PAGES, 0))
    store.read(key(1), into)
    assert into == content(1, PAGES)
    assert direct == [False, False]


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (0, Rejection.TRUNCATED),
        (100, Rejection.TRUNCATED),
        (HEADER_BYTES, Rejection.TRUNCATED),
        (HEADER_BYTES + 100, Rejection.TRUNCATED),
        (HEADER_BYTES + PAGES - 1, Rejection.TRUNCATED),
        (HEADER_BYTES + PAGES + 1, Rejection.WRONG_SIZE),
        (HEADER_BYTES + 2 * PAGES, Rejection.WRONG_SIZE),
    ],
)
def test_a_file_of_another_size_is_rejected(root: Path, size: int, reason: Rejection) -> None:
    store = open_store(root)
    store.write(key(1), filled(PAGES, 0))
    (path,) = root.rglob("*.kv")
    os.truncate(path, size)
    with pytest.raises(BlockCorruptError) as error:
        store.read(key(1), memory(PAGES, 0))
    assert error.value.reason is reason


def test_a_flipped_bit_is_noticed(root: Path) -> None:
    store = open_store(root)
    store.write(key(1), filled(PAGES, 0))
    (path,) = root.rglob("*.kv")
    block = bytearray(path.read_bytes())
    block[-1] ^= 1
    path.write_bytes(block)
    with pytest.raises(BlockCorruptError):
        store.read(key(1), memory(PAGES, 0))

"""A directory keeps blocks, for whoever may read them, until they are too many."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest

from vllm_npu_kv_connector.tiers.block_format import HEADER_BYTES, Rejection
from vllm_npu_kv_connector.tiers.directory import DirectoryStore
from vllm_npu_kv_connector.tiers.store import (
    BlockCorruptError,
    BlockMissingError,
    Event,
    Outage,
    StoreUnavailableError,
)

from .blocks import BLOCK, MODEL, ON_DISK, OTHER_MODEL, content, key, space


def open_store(root: Path, blocks: int = 100, identity: str = MODEL) -> DirectoryStore:
    """With room for so many blocks."""
    return DirectoryStore(root, identity, block_bytes=BLOCK, max_bytes=blocks * ON_DISK)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "kv"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return open_store(root)


def holds(store: DirectoryStore, number: int) -> bool:
    """Whether a block comes back as it was; fails if it comes back otherwise."""
    into = space()
    try:
        store.read(key(number), into)
    except BlockMissingError:
        return False
    assert into == content(number)
    return True


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.kv") if path.is_file())


def file_of(root: Path, number: int) -> Path:
    (path,) = root.rglob(f"{key(number).hex()}.kv")
    return path


def age(root: Path, number: int, seconds: int) -> None:
    then = time.time() - seconds
    os.utime(file_of(root, number), (then, then))


def test_a_block_comes_back(store: DirectoryStore) -> None:
    assert store.write(key(1), content(1)) == HEADER_BYTES + BLOCK
    assert store.contains([key(1), key(2)]) == [True, False]
    assert holds(store, 1)
    assert not holds(store, 2)


def test_a_block_is_written_once(store: DirectoryStore) -> None:
    store.write(key(1), content(1))
    assert store.write(key(1), content(1)) == 0


def test_groups_of_layers_have_blocks_of_their_own(store: DirectoryStore) -> None:
    store.write(key(1, group=0), content(1))
    store.write(key(1, group=1), content(2))
    into = space()
    store.read(key(1, group=1), into)
    assert into == content(2)


def test_a_block_can_be_removed_and_its_room_is_free(store: DirectoryStore) -> None:
    store.write(key(1), content(1))
    assert store.kept_bytes() == ON_DISK
    store.remove(key(1))
    store.remove(key(1))
    assert store.contains([key(1)]) == [False]
    assert store.kept_bytes() == 0


def test_blocks_outlive_the_engine(store: DirectoryStore, root: Path) -> None:
    store.write(key(1), content(1))
    store.close()
    assert holds(open_store(root), 1)


def test_engines_share_blocks(store: DirectoryStore, root: Path) -> None:
    other = open_store(root)
    store.write(key(1), content(1))
    assert holds(other, 1)
    assert other.write(key(1), content(1)) == 0


def test_no_model_sees_anothers_blocks(store: DirectoryStore, root: Path) -> None:
    store.write(key(1), content(1))
    other = open_store(root, identity=OTHER_MODEL)
    assert other.contains([key(1)]) == [False]
    assert not holds(other, 1)


def test_all_of_it_is_the_users_alone(root: Path) -> None:
    before = os.umask(0)
    try:
        open_store(root).write(key(1), content(1))
    finally:
        os.umask(before)
    for path in [root, *root.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


# The limit.


def test_the_longest_unused_go_first(root: Path) -> None:
    store = open_store(root, blocks=3)
    for number in (1, 2, 3):
        store.write(key(number), content(number))
        age(root, number, seconds=100 - number)
    assert holds(store, 1)  # which is a use
    store.touch([key(2), key(77)])  # so is this
    store.write(key(4), content(4))
    assert [holds(store, number) for number in (1, 2, 3, 4)] == [True, True, False, True]
    assert store.tally.take() == {(Event.EVICTED, ""): 1}


def test_the_limit_holds_whatever_is_written(root: Path) -> None:
    store = open_store(root, blocks=10)
    for number in range(50):
        store.write(key(number), content(number))
        assert len(files(root)) <= 10
        assert store.kept_bytes() == len(files(root)) * ON_DISK
    assert len(files(root)) >= 9  # not emptied for nothing
    assert holds(store, 49)


def test_the_limit_is_that_of_all_models_together(root: Path) -> None:
    stores = [open_store(root, blocks=4, identity=each) for each in (MODEL, OTHER_MODEL)]
    for number in range(8):
        stores[number % 2].write(key(number), content(number))
    assert len(files(root)) == 4
    stores[0].write(key(8), content(8))
    assert not (holds(stores[1], 3) and holds(stores[0], 4))  # the oldest, whosever it is


def test_a_smaller_limit_after_a_restart_is_kept_from_the_first_write(root: Path) -> None:
    store = open_store(root, blocks=10)
    for number in range(10):
        store.write(key(number), content(number))
    open_store(root, blocks=3).write(key(10), content(10))
    assert len(files(root)) <= 3


def test_directories_of_models_that_went_out_of_use_are_removed(root: Path) -> None:
    open_store(root, blocks=2, identity=OTHER_MODEL).write(key(1), content(1))
    store = open_store(root, blocks=2)
    for number in (2, 3, 4):
        store.write(key(number), content(number))
    assert not list(root.rglob(OTHER_MODEL))


def test_files_that_somebody_deleted_leave_room(root: Path) -> None:
    store = open_store(root, blocks=3)
    for number in (1, 2, 3):
        store.write(key(number), content(number))
    file_of(root, 1).unlink()
    store.write(key(4), content(4))
    assert [holds(store, number) for number in (2, 3, 4)] == [True] * 3
    assert store.tally.take() == {}


@pytest.mark.parametrize("damage", [b"", b"x" * 16, b"x" * 17, bytes(16)])
def test_a_damaged_account_is_made_anew(root: Path, damage: bytes) -> None:
    store = open_store(root, blocks=3)
    store.write(key(1), content(1))
    (root / "used").write_bytes(damage)
    store.write(key(2), content(2))
    assert store.kept_bytes() == 2 * ON_DISK


def test_a_root_that_was_emptied_is_used_again(root: Path) -> None:
    store = open_store(root)
    store.write(key(1), content(1))
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert not holds(store, 1)
    store.write(key(2), content(2))
    assert holds(store, 2)
    assert store.kept_bytes() == ON_DISK


# Integrity.


def _cut_short(path: Path) -> None:
    os.truncate(path, HEADER_BYTES + 100)


def _to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def _change(offset: int):
    def change(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0x10]))

    return change


def _lengthen(path: Path) -> None:
    os.truncate(path, HEADER_BYTES + BLOCK + 1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut_short, Rejection.TRUNCATED),
        (_to_nothing, Rejection.TRUNCATED),
        (_lengthen, Rejection.WRONG_SIZE),
        (_change(0), Rejection.BAD_MAGIC),
        (_change(8), Rejection.OTHER_VERSION),
        (_change(30), Rejection.FOREIGN_IDENTITY),
        (_change(60), Rejection.OTHER_KEY),
        (_change(HEADER_BYTES + BLOCK // 2), Rejection.BAD_CHECKSUM),
    ],
)
def test_a_bad_block_is_removed_counted_and_logged(
    root: Path, store: DirectoryStore, damage, reason: Rejection, caplog
) -> None:
    store.write(key(1), content(1))
    damage(path := file_of(root, 1))
    with pytest.raises(BlockCorruptError) as error:
        store.read(key(1), space())
    assert error.value.reason is reason
    assert not path.exists()
    assert store.tally.take() == {(Event.CORRUPT, reason): 1}
    assert [str(path) in record.message for record in caplog.records] == [True]
    # From then on it is missing, until it is written again.
    assert store.contains([key(1)]) == [False]
    store.write(key(1), content(1))
    assert holds(store, 1)


def test_another_models_file_in_ones_own_place_is_rejected(root: Path) -> None:
    open_store(root, identity=OTHER_MODEL).write(key(1), content(1))
    store = open_store(root)
    store.write(key(2), content(2))
    mine = file_of(root, 1).as_posix().replace(OTHER_MODEL, MODEL)
    Path(mine).parent.mkdir(exist_ok=True)
    file_of(root, 1).rename(mine)
    with pytest.raises(BlockCorruptError) as error:
        store.read(key(1), space())
    assert error.value.reason is Rejection.FOREIGN_IDENTITY


def test_many_bad_blocks_do_not_flood_the_log(root: Path, store: DirectoryStore, caplog) -> None:
    for number in range(30):
        store.write(key(number), content(number))
        _cut_short(file_of(root, number))
        with pytest.raises(BlockCorruptError):
            store.read(key(number), space())
    assert len(caplog.records) == 5
    assert store.tally.take() == {(Event.CORRUPT, Rejection.TRUNCATED): 30}


def test_what_is_being_written_is_not_seen(root: Path, store: DirectoryStore, monkeypatch) -> None:
    seen = []
    writev = os.writev

    def halfway(file: int, pieces) -> int:
        seen.append(store.contains([key(1)]))
        return writev(file, pieces[:1])

    monkeypatch.setattr(os, "writev", halfway)
    store.write(key(1), content(1))
    assert seen == [[False], [False]]
    assert holds(store, 1)


def test_a_pipe_in_a_blocks_place_does_not_hang_a_reader(root: Path, store: DirectoryStore) -> None:
    store.write(key(1), content(1))
    path = file_of(root, 1)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises((BlockCorruptError, StoreUnavailableError)):
        store.read(key(1), space())


def test_threads_share_a_store(root: Path) -> None:
    store, wrong = open_store(root, blocks=20), []

    def work(seed: int) -> None:
        try:
            for step in range(60):
                number = (seed * 7 + step * 3) % 40
                store.write(key(number), content(number))
                holds(store, (number + seed) % 40)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(files(root)) <= 20
    assert {event for event, _ in store.tally.take()} == {Event.EVICTED}


def test_a_block_that_two_write_at_a_time_is_one(root: Path, store: DirectoryStore, monkeypatch):
    other, writev = open_store(root), os.writev

    def meanwhile(file: int, pieces) -> int:
        monkeypatch.setattr(os, "writev", writev)
        other.write(key(1), content(1))
        return writev(file, pieces)

    monkeypatch.setattr(os, "writev", meanwhile)
    store.write(key(1), content(1))
    assert holds(store, 1)
    assert len(files(root)) == 1
    assert store.tally.take() == other.tally.take() == {}


def test_a_lock_that_is_not_let_go_costs_a_write_and_no_read(root: Path, caplog) -> None:
    from filelock import FileLock

    store = DirectoryStore(
        root, MODEL, block_bytes=BLOCK, max_bytes=10 * ON_DISK, lock_timeout_s=0.05
    )
    store.write(key(1), content(1))
    with FileLock(root / "lock"):
        with pytest.raises(StoreUnavailableError) as error:
            store.write(key(2), content(2))
        assert error.value.outage is Outage.LOCKED
        assert holds(store, 1)
    assert ["another engine holds" in record.message for record in caplog.records] == [True]

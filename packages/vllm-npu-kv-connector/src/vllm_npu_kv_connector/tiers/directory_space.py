"""How much of a directory's limit is taken, by all engines that share it, and making room.

`UsedBytes` says how many bytes are taken; each writer adds to it, under a lock, before it writes.
So the number is never too small. It may be too large, after a process was killed or somebody
deleted files by hand: once it reaches the limit the files are counted, which sets it right, and
only then the oldest are deleted.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vllm_npu_kv_connector.tiers.private_directory import make
from vllm_npu_kv_connector.tiers.store import Event, Outage, StoreUnavailableError, Tally
from vllm_npu_kv_connector.tiers.used_bytes import UsedBytes

_logger = logging.getLogger("vllm.npu")

_PAGE = 4096
# Of the limit, freed beyond what is needed, so that files aren't counted for each write.
_SPARE = 20
_ATTEMPTS = 5
_POLL_S = 0.005


@dataclass
class _Block:
    used_ns: int
    bytes: int
    path: str


def on_disk(size: int) -> int:
    """Bytes that a file of a size takes, as file systems hand out whole pages."""
    return -(-size // _PAGE) * _PAGE


class DirectorySpace:
    """Room for files under a root, which together stay below a limit.

    Files of blocks lie anywhere below ``<root>/v*``; files that are being written, in
    ``<root>/writing``, each locked by its writer, which tells them from what a dead one left.
    """

    def __init__(self, root: Path, max_bytes: int, tally: Tally, lock_timeout_s: float) -> None:
        """Take part in sharing the room. What is there is counted at the first write.

        Args:
            root: a directory of the user's own.
            max_bytes: the limit. Engines that share a root keep the smallest of theirs.
            tally: counts blocks that were deleted to make room.
            lock_timeout_s: how long to wait for other engines, at most.
        """
        self._root = root
        self._writing = root / "writing"
        self._max_bytes = max_bytes
        self._tally = tally
        self._timeout_s = lock_timeout_s
        # Threads wait here, where they are woken; for other processes' turn they must poll.
        self._turn = threading.Lock()
        self._lock_path = f"{root}/lock"
        self._used = UsedBytes(root / "used")
        self._counted = False

    @contextmanager
    def writing(self, path: str, size: int) -> Iterator[int]:
        """A new file to be written, which gets its name if the caller raises nothing.

        Args:
            path: its name; a file that had it is replaced, at once for whoever looks.
            size: bytes that it will have.

        Yields:
            Its descriptor.

        Raises:
            StoreUnavailableError: there is no room, or another engine doesn't let go of the lock.
            OSError: it can't be written.
        """
        descriptor, temporary = self._begin(size)
        try:
            try:
                yield descriptor
                _rename(temporary, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                self.forget(size)
                raise
        finally:
            os.close(descriptor)

    def forget(self, size: int) -> None:
        """Take back what a file took that is no more.

        Args:
            size: bytes that it had.
        """
        # If it can't be, the number is too large for a while.
        with suppress(OSError, StoreUnavailableError), self._lock():
            used = self._used.read()
            if used is not None:
                self._used.write(max(0, used - on_disk(size)))

    def used_bytes(self) -> int | None:
        """Bytes taken, as far as is known; None before anything was ever written."""
        try:
            return self._used.read()
        except OSError:
            return None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        # Another thread has it for as long as it waits for other engines, or makes room.
        with self._turn:
            # For each block: a lock of the filelock package takes as long as writing one.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._lock_path, flags, 0o600)
            try:
                self._wait_for(descriptor)
                yield
            finally:
                os.close(descriptor)  # which lets go of it

    def _wait_for(self, descriptor: int) -> None:
        until = time.monotonic() + self._timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreUnavailableError(
                        Outage.LOCKED,
                        f"another engine holds '{self._lock_path}' for over {self._timeout_s} s",
                    ) from None
                time.sleep(_POLL_S)

    def _begin(self, size: int) -> tuple[int, str]:
        make(self._writing)  # Somebody may have deleted it, or all of the root.
        with self._lock():
            used = self._used.read() if self._counted else None
            if used is None or used + on_disk(size) > self._max_bytes:
                used = self._make_room(on_disk(size))
                self._counted = True
            self._used.write(used + on_disk(size))
            try:
                return self._temporary(size)
            except OSError:
                self._used.write(used)
                raise

    def _temporary(self, size: int) -> tuple[int, str]:
        # The name says what it will take. (To set its size instead makes writing it much slower.)
        descriptor, path = tempfile.mkstemp(prefix=f"{size}-", dir=self._writing)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            os.unlink(path)
            raise
        return descriptor, path

    def _make_room(self, wanted: int) -> int:
        """Count what is taken and, if it must be, delete blocks, longest unused first."""
        # In this order: one that gets its name meanwhile is counted twice rather than not at all.
        used = self._being_written()
        blocks = [_Block(s.st_mtime_ns, on_disk(s.st_size), path) for path, s in self._blocks()]
        used += sum(block.bytes for block in blocks)
        if used + wanted <= self._max_bytes:
            return used
        spare = self._max_bytes // _SPARE // wanted * wanted
        goal = max(0, self._max_bytes - wanted - spare)
        emptied = set()
        for block in sorted(blocks, key=lambda block: block.used_ns):
            if used <= goal:
                break
            try:
                os.unlink(block.path)
                self._tally.add(Event.EVICTED)
            except FileNotFoundError:
                pass  # found to be damaged, and removed, in this moment
            used -= block.bytes
            emptied.add(os.path.dirname(block.path))
        self._prune(emptied)
        if used + wanted > self._max_bytes:
            raise StoreUnavailableError(
                Outage.FULL, f"no room in '{self._root}': all of it is being written to"
            )
        return used

    def _blocks(self) -> Iterator[tuple[str, os.stat_result]]:
        pending = [
            str(path) for path in self._root.glob("v*") if path.is_dir() and not path.is_symlink()
        ]
        while pending:
            with suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                        continue
                    with suppress(FileNotFoundError):
                        yield entry.path, entry.stat(follow_symlinks=False)

    def _being_written(self) -> int:
        total = 0
        with suppress(FileNotFoundError), os.scandir(self._writing) as entries:
            for entry in entries:
                # Gone: it has got its name.
                with suppress(FileNotFoundError):
                    if not _abandoned(entry.path):
                        total += on_disk(int(entry.name.partition("-")[0]))
                        continue
                    os.unlink(entry.path)
                    _logger.info("Removed '%s', which a dead process had left.", entry.path)
        return total

    def _prune(self, directories: set[str]) -> None:
        for directory in directories:
            # Of other identities too: whole models go out of use.
            with suppress(OSError):
                os.rmdir(directory)
                os.rmdir(os.path.dirname(directory))


def _rename(temporary: str, path: str) -> None:
    for _ in range(_ATTEMPTS):
        # Missing: nothing was written there yet, or another engine removed it as it was empty.
        with suppress(FileNotFoundError):
            os.replace(temporary, path)
            return
        with suppress(FileNotFoundError):
            make(Path(path).parent)
    os.replace(temporary, path)


def _abandoned(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True

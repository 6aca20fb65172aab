"""One engine compiles a graph, and the others that want it wait."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE = 1.0
"""Seconds of waiting that nobody needs to hear of."""
_ATTEMPTS = 3

_logger = logging.getLogger("vllm.npu")


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock at `path` while the block runs; the system frees it if the process dies.

    Args:
        path: of the lock's file; its directory is made.
        waiting: called once if somebody else holds it for longer than `PATIENCE`.

    Yields:
        Whether it is held; not where the file can't be written.
    """
    lock = _acquire(path, waiting)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def _acquire(path: Path, waiting: Callable[[], None]) -> FileLock | None:
    for _ in range(_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=PATIENCE)
            except Timeout:
                waiting()
                lock.acquire(timeout=-1)
            return lock
        except FileNotFoundError:
            continue  # the directory was cleared in between
        except (OSError, NotImplementedError) as error:
            _logger.debug("%s can't be locked: %s", path, error)
            return None
    return None

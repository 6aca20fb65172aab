"""A forked process that holds nothing of its parent's but memory.

The standard library's fork leaves the child every descriptor, the server's socket among them,
so that its port stays taken as long as the child lives; and the parent's signal handlers, which
write into the parent's event loop.
"""

from __future__ import annotations

import asyncio
import gc
import io
import os
import pickle
import signal
from collections.abc import Collection, Iterator
from multiprocessing import popen_fork, popen_spawn_posix, resource_tracker, util
from multiprocessing.context import set_spawning_popen
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

_BETWEEN_PROCESSES = ("socket:", "pipe:", "anon_inode:")


class Popen(popen_fork.Popen):
    """Starts a process by a fork, and lets go in it of what was its parent's."""

    method = "fork"

    def _launch(self, process: Any) -> None:
        kept = descriptors_of(process)
        parent_reads, child_writes = os.pipe()
        child_reads, parent_writes = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                leave_parent({*kept, child_reads, child_writes})
                status = process._bootstrap(parent_sentinel=child_reads)
            finally:
                os._exit(status)
        os.close(child_writes)
        os.close(child_reads)
        self.sentinel = parent_reads
        self.finalizer = util.Finalize(self, _close, (parent_reads, parent_writes))


class _Collector:
    """Stands for a process that is being spawned, and writes down what it is to inherit."""

    DupFd = popen_spawn_posix._DupFd

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        """Called by whatever holds a descriptor and is pickled."""
        self.descriptors.append(descriptor)
        return descriptor


def descriptors_of(process: Any) -> set[int]:
    """Descriptors that a process's arguments hold: pipes, queues, sockets.

    Found as spawning would find them, by pickling. Arguments that can't be pickled may hold any.
    """
    collector = _Collector()
    set_spawning_popen(collector)  # type: ignore[arg-type]
    try:
        ForkingPickler(io.BytesIO()).dump((process._target, process._args, process._kwargs))
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError):
        return set(_open_descriptors())
    finally:
        set_spawning_popen(None)
    return set(collector.descriptors)


def leave_parent(kept: Collection[int]) -> None:
    """In a child: drop the parent's connections, signal handlers and event loop.

    Args:
        kept: descriptors to keep, beside the standard streams and multiprocessing's own.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio._set_running_loop(None)
    tracker = resource_tracker._resource_tracker._fd  # type: ignore[attr-defined]
    _silence({*kept, 0, 1, 2, *([] if tracker is None else [tracker])})
    # What the parent's objects would do at their end is not for this process.
    gc.freeze()


def _silence(kept: Collection[int]) -> None:
    """Let descriptors lead nowhere. They stay taken: their objects may still close them."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in _open_descriptors():
        if descriptor in kept or descriptor == nowhere:
            continue
        try:
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(_BETWEEN_PROCESSES):
                os.dup2(nowhere, descriptor, inheritable=False)
        except OSError:
            continue  # the listing's own
    os.close(nowhere)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _open_descriptors() -> Iterator[int]:
    return iter([int(each.name) for each in Path("/proc/self/fd").iterdir()])

"""NIXL's progress thread polls without a pause: a processor's whole time for each engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

LEAST = 19
TICKS = 100


@contextmanager
def yielding() -> Iterator[None]:
    """In here, threads of child processes that spend their time in the system are found, and get
    the least priority, so that they take only what nothing else needs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                for task in Path(f"/proc/{process.pid}/task").glob("*"):
                    with suppress(OSError):
                        _let_yield(task)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _let_yield(task: Path) -> None:
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    user, system, nice = int(fields[11]), int(fields[12]), int(fields[16])
    if nice < LEAST and system > max(user, TICKS):
        os.setpriority(os.PRIO_PROCESS, int(task.name), LEAST)

"""Work of a vendor's library, done in a thread while the caller goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def aside(work: Callable[[], T]) -> Callable[[], T]:
    """Start `work` in a thread of its own.

    It must not trace: PyTorch's tracers keep what they are at in global variables.

    Returns:
        Waits for it, and gives what it returned or raises what it raised.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # No pool: one that a process has forked with would wait for threads that it doesn't have.
    Thread(target=run, name="npu-compile").start()
    return future.result

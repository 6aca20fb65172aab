"""The end of an engine's processes: with their parent, and at a stop while graphs are compiled."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import util
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

GRACE_SECONDS = 10.0
"""For an orderly end, once the parent is gone."""

_logger = logging.getLogger("vllm.npu")
_STOPS = (signal.SIGTERM, signal.SIGINT)
_files: set[Path] = set()
_WATCHER = "vllm-npu-parent"
_LOOK_SECONDS = 1.0


def end_with_parent() -> None:
    """Have this process end when the one that started it is gone, however that came about.

    vLLM's server ends its engine when it stops, but can't when it is killed.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and not any(t.name == _WATCHER for t in threading.enumerate()):
        threading.Thread(target=_watch, args=(parent,), name=_WATCHER, daemon=True).start()


def _watch(parent: Any) -> None:
    # Another process may have inherited the sentinel's other end, so the system is asked as well,
    # where this process is the parent's own child.
    is_child = os.getppid() == parent.pid
    while not wait([parent.sentinel], _LOOK_SECONDS):
        if is_child and os.getppid() != parent.pid:
            break
    _logger.warning("The process that started this one (%d) is gone: it ends, too.", parent.pid)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    for path in _files:
        path.unlink(missing_ok=True)
    os.kill(os.getpid(), signal.SIGKILL)


def take_away_at_end(path: Path) -> None:
    """Have a file deleted even if this process doesn't get to an orderly end.

    Only where it can still do anything; it can't when it is killed itself.
    """
    _files.add(path)
    util.Finalize(None, path.unlink, kwargs={"missing_ok": True}, exitpriority=0)


def stop_at_sigterm() -> None:
    """Have SIGTERM end a server that waits for its engine, with everything that it started.

    vLLM's handler for that time raises KeyboardInterrupt, which its own `zmq_socket_ctx` drops:
    the server goes on to serve. Once it serves, it handles the signal otherwise.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGTERM)
    if getattr(handler, "__module__", "").startswith("vllm.entrypoints.launchers."):
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


class StopRequest:
    """Whether a signal has asked this process to stop."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None

    def note(self, number: int) -> None:
        """A signal has arrived."""
        self._received = signal.Signals(number)

    def check(self) -> None:
        """To be called between the steps of long work.

        Raises:
            SystemExit: a stop was asked for.
        """
        if self._received is not None:
            _logger.info("Stopped by %s while starting.", self._received.name)
            raise SystemExit(128 + self._received)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """What asks for a stop within the block.

    vLLM's handlers write a signal down, and look at it when the engine has started; they still
    get it.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _STOPS}

    def handle(number: int, frame: FrameType | None) -> None:
        request.note(number)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            request.check()

    for number in _STOPS:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

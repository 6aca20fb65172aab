"""Ask something in a child process, so that this one stays fit to be forked.

A vendor's runtime may start threads and open devices when it is asked what there is. A process
that is forked afterwards has the memory of both and neither of them. So whoever only asks, as a
server does before it starts its engine, asks in a child that ends with the answer.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

from vllm_npu_runtime.errors import ConfigurationError

T = TypeVar("T")
SECONDS = 120
LOOK = "`vllm-npu doctor` shows which driver it is."


def can_ask() -> bool:
    """Whether a child of this process can answer: a lock that another thread of ours holds would
    stay locked there."""
    return hasattr(os, "fork") and threading.active_count() == 1


def in_child(what: str, function: Callable[[], T], seconds: float = SECONDS) -> T:
    """The result of a function that a forked child runs.

    Args:
        what: is asked, for errors, as in "Looking for devices".
        function: whose result, or error, can be pickled.
        seconds: that it may take.

    Raises:
        ConfigurationError: the child crashed, or took too long.
        Exception: whatever the function raises.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Of threads of other libraries, which the child has no use for.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _answer(writing, function, seconds)
    os.close(writing)
    try:
        answer = _read(reading, time.monotonic() + seconds)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # It has answered, or never will.
        _, status = os.waitpid(child, 0)
    if answer is None:
        raise ConfigurationError(f"{what} took more than {seconds:g} s. {LOOK}")
    if not answer:
        code = os.waitstatus_to_exitcode(status)
        ended = f"signal {-code}" if code < 0 else f"status {code}"
        raise ConfigurationError(f"{what} ended with {ended}. {LOOK}")
    succeeded, result = pickle.loads(answer)
    if succeeded:
        return result
    raise result


def _answer(writing: int, function: Callable[[], T], seconds: float) -> NoReturn:
    """The child: it leaves nothing behind, whatever becomes of it and of its parent."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(max(1, int(seconds)))
        try:
            answer = pickle.dumps((True, function()))
        except Exception as error:
            answer = pickle.dumps((False, error))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)


def _read(reading: int, end: float) -> bytes | None:
    """All that comes until the other side closes the pipe; None if that isn't by then."""
    parts: list[bytes] = []
    waiting = select.poll()
    waiting.register(reading, select.POLLIN)
    while True:
        if not waiting.poll(max(0.0, end - time.monotonic()) * 1000):
            return None
        if not (part := os.read(reading, 1 << 16)):
            return b"".join(parts)
        parts.append(part)

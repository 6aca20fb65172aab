"""From a session's opening to its end, which may come from any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from vllm_npu_runtime.errors import DeviceLostError


class Lifetime:
    """Lets calls take turns while a session is open, and none after that.

    Args:
        name: of the session, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._turn = Lock()
        self._end: str | None = None
        self._freed = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """For the length of a call, during which nothing is freed.

        Raises:
            DeviceLostError: the session is closed, or its device is gone.
        """
        self.check()
        with self._turn:
            self.check()
            yield

    def check(self) -> None:
        """Raise `DeviceLostError` if it is over."""
        if self._end is not None:
            raise DeviceLostError(self._end)

    def lose(self, error: DeviceLostError) -> None:
        """The device is gone: every later call says so."""
        self._end = self._end or str(error)

    def close(self, free: Callable[[], None]) -> None:
        """End it: calls that wait are refused, the one that runs ends first, `free` runs once."""
        self._end = self._end or f"The session of {self._name} is closed."
        with self._turn:
            if not self._freed:
                self._freed = True
                free()

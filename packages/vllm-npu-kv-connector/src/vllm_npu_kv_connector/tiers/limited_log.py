"""Log lines that can't flood the log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Window:
    began: float
    lines: int = 0
    left_out: int = 0


class LimitedLog:
    """Warnings, of each kind a few in a period; the next period's first says how many were not."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        lines: int = 5,
        period_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Where to log.

        Args:
            logger: takes the lines.
            lines: of each kind in a period, at most.
            period_s: how long a period lasts.
            clock: tells the time, in seconds.
        """
        self._logger = logger
        self._lines = lines
        self._period_s = period_s
        self._clock = clock
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()

    def warning(self, kind: str, message: str, *values: object) -> None:
        """Log a warning, unless there were too many of its kind.

        Args:
            kind: what lines are counted by.
            message: as `logging` takes it, with its values.
            values: for the message.
        """
        with self._lock:
            now = self._clock()
            window = self._windows.get(kind)
            left_out = 0
            if window is None or now - window.began >= self._period_s:
                left_out = window.left_out if window else 0
                window = self._windows[kind] = _Window(now)
            if window.lines >= self._lines:
                window.left_out += 1
                return
            window.lines += 1
        if left_out:
            message += " (%d more like this were not logged)"
            values = (*values, left_out)
        self._logger.warning(message, *values)

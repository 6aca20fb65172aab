"""What an engine's start spends its time on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from vllm_npu_platform.stats import beginning

IMPORTS = "imports"
"""From the beginning of the process that imported vLLM until an engine was configured."""
WEIGHTS = "weights"
KV_CACHE = "kv_cache"
CAPTURE = "capture"
COMPILE = "compile"
LOAD = "load"
"""Graphs from the compile cache, or a session opened from an artifact."""
WARM_UP = "warm_up"
OTHER = "other"
PARTS = (IMPORTS, WEIGHTS, KV_CACHE, CAPTURE, COMPILE, LOAD, WARM_UP, OTHER)
_TITLES = {KV_CACHE: "KV cache", WARM_UP: "warm-up"}


class StartTimes:
    """Seconds of one start, by part. No second is counted twice: a part within another one
    interrupts it."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._begin, self.seconds[IMPORTS] = beginning.of_engine()
        self._running: list[str] = []
        self._since = time.monotonic()
        self._finished = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count a block; once the start is over, nothing is."""
        self._count()
        self._running.append(name)
        try:
            yield
        finally:
            self._count()
            self._running.pop()

    def finish(self) -> None:
        """The start is over; what no part has counted is other."""
        if not self._finished:
            self._finished = True
            beginning.handed_over()
            counted = sum(self.seconds.values())
            self.seconds[OTHER] = max(time.monotonic() - self._begin - counted, 0.0)

    def line(self) -> str:
        """The parts for the log, less those that took no time to speak of."""
        parts = [
            f"{_TITLES.get(name, name)} {seconds:.1f} s"
            for name, seconds in self.seconds.items()
            if seconds >= 0.05
        ]
        return f"Start-up took {sum(self.seconds.values()):.1f} s: {', '.join(parts)}"

    def _count(self) -> None:
        """What passed since the last time, to the innermost part."""
        now = time.monotonic()
        if self._running and not self._finished:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

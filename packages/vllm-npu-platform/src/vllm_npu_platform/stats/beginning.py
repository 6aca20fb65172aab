"""When an engine's start began, and how long its imports took.

A start begins with the process that imports vLLM. An engine that is forked has what this module
knew in its parent, so that the server's imports are its own, and to one that a fork server forks
it is handed; an engine that is spawned imports for itself.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


def _process_began() -> float:
    """When this process began, on the monotonic clock; where the system doesn't say, now."""
    now = time.monotonic()
    try:
        # Field 22, counted from the one behind the name, which may hold blanks.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return now
    return now - max(age, 0.0)


@dataclass
class Beginning:
    """Of a start.

    Attributes:
        begin: on the monotonic clock, which all processes share.
        imports: seconds that they took; None: they aren't over.
        handed_over: the engine was started.
    """

    begin: float
    imports: float | None = None
    handed_over: bool = False


_state = Beginning(_process_began())


def known() -> Beginning:
    """What this process knows of the start."""
    return _state


def take_over(of_parent: Beginning) -> None:
    """Know what the process knows that asked for this one."""
    global _state
    _state = of_parent


def configuring() -> None:
    """An engine's configuration begins, so vLLM is imported. Called again for the same engine, it
    changes nothing."""
    global _state
    now = time.monotonic()
    if _state.handed_over:  # Another engine of this process: it imports nothing.
        _state = Beginning(now, 0.0)
    elif _state.imports is None:
        _state.imports = now - _state.begin


def handed_over() -> None:
    """An engine was started, here or in a process of its own: the next configuration is another
    engine's."""
    _state.handed_over = True


def of_engine() -> tuple[float, float]:
    """When the start of this process's engine began, on the monotonic clock, and the seconds of
    its imports."""
    imports = _state.imports
    return _state.begin, time.monotonic() - _state.begin if imports is None else imports

"""How much host memory the connector takes where nobody says."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

SHARED = Path("/dev/shm")
_OF_MEMORY, _OF_SHARED = 8, 2
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def default_bytes() -> int:
    """An eighth of the host's memory, and no more than half of `/dev/shm`, which it lies in.

    Of what there is in all, not of what is free now: every process of an engine comes to the same.
    """
    memory = min(psutil.virtual_memory().total, _limit())
    status = os.statvfs(SHARED)
    return min(memory // _OF_MEMORY, status.f_blocks * status.f_frsize // _OF_SHARED)


def _limit() -> int:
    """Bytes that a container may use."""
    try:
        return int(_CGROUP.read_text())
    except (OSError, ValueError):  # none, or "max"
        return psutil.virtual_memory().total

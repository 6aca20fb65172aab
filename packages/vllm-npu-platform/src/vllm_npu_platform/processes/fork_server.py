"""A process that has imported vLLM and waits to be forked, for a server that can't be.

It is started as early as vLLM asks for a platform, so that it imports on another core while the
server does.
"""

from __future__ import annotations

import os
from multiprocessing import forkserver

PRELOADED = "vllm_npu_platform.processes.preload"


def start() -> None:
    """Start it, unless there is one; returns at once."""
    forkserver.set_forkserver_preload([PRELOADED])
    forkserver.ensure_running()


def is_running() -> bool:
    """Whether this process has started one."""
    return forkserver._forkserver._forkserver_pid is not None  # type: ignore[attr-defined]


def settle_in(environment: dict[str, str]) -> None:
    """In a child of the fork server: take over what its parent has set since that was started.

    Args:
        environment: the parent's at the time of the start.
    """
    os.environ.clear()
    os.environ.update(environment)
    if count := environment.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(count))

"""Waiting for what a server does soon, but in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.serving import PATIENCE, Server


def running(server: Server) -> float:
    """Requests in the engine."""
    metrics = server.metrics()
    return metrics["vllm:num_requests_running"] + metrics["vllm:num_requests_waiting"]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what happens soon, but in a process of its own."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)

"""A server that is stopped or killed while it starts leaves no process, no port and no file."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.server import stopping
from tests.server.stopping import Starting
from tests.serving import PATIENCE

pytestmark = [pytest.mark.serve, pytest.mark.slow]

STARTING = "Starting to load model"
"""Said by the engine, some seconds before it can answer: its graphs are compiled meanwhile."""
WAYS = {
    "stopped": (signal.SIGTERM, None),
    "killed": (signal.SIGKILL, None),
    "killed, spawned": (signal.SIGKILL, "spawn"),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Starting]]:
    """One for each way, started side by side."""
    directory = tmp_path_factory.mktemp("stopping")
    started = {
        way: stopping.start(directory / f"{way}.log", method) for way, (_, method) in WAYS.items()
    }
    yield started
    for each in started.values():
        each.kill()


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_ended_while_it_starts_leaves_nothing(
    servers: dict[str, Starting], way: str
) -> None:
    server = servers[way]
    end = time.monotonic() + PATIENCE
    while not server.says(STARTING):
        assert server.process.poll() is None and time.monotonic() < end, server.log.read_text()
        time.sleep(0.1)
    left = server.end(WAYS[way][0])
    assert not left, server.log.read_text()

"""A Redis server for tests that need no special one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .redis_server import RedisServer, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server without password, which the test may stop, kill and start again."""
    with running(tmp_path) as started:
        yield started

"""What the tests of the compile cache share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_npu_runtime.compile_cache import CompileCache

from .graphs import KEY

LOGGER = logging.getLogger("vllm.npu")


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the cache will be."""
    return tmp_path / "cache"


@pytest.fixture
def cache(root: Path) -> CompileCache:
    """An empty cache."""
    return CompileCache(root, KEY)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged meanwhile."""
    handler, level = Lines(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield handler.lines
    LOGGER.setLevel(level)
    LOGGER.removeHandler(handler)

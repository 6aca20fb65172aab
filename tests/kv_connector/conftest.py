"""A Redis server for engines: the one that the package's own tests start."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

_HELPER = ROOT / "packages" / "vllm-npu-kv-connector" / "tests" / "tiers" / "redis_server.py"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running server; tests that stop it start it again."""
    spec = importlib.util.spec_from_file_location("redis_server", _HELPER)
    assert spec is not None
    assert spec.loader is not None
    helper = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helper)
    with helper.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    """A directory for block files."""
    return tmp_path / "blocks"

"""What the tests of artifacts share."""

from __future__ import annotations

from pathlib import Path

import pytest

from .directories import fill


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An artifact's directory."""
    path = tmp_path / "artifact"
    path.mkdir()
    fill(path)
    return path

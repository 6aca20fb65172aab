"""Scripts in processes of their own, which have no threads and signal handlers of a test runner."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE = 240


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a Python script from a file, with its output in a pipe."""

    def start(source: str, **env: str) -> subprocess.Popen[str]:
        path = tmp_path / "script.py"
        path.write_text(source)
        return subprocess.Popen(
            [sys.executable, str(path)],
            env={**os.environ, "OMP_NUM_THREADS": "2", **env},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture
def output(script: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Runs a script to its end, and gives what it printed."""

    def run(source: str, **env: str) -> str:
        process = script(source, **env)
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, printed
        return printed.strip()

    return run

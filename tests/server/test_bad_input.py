"""Bad input gets one clear error: the value, what is allowed, and the fix."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import COMMON
from tests.server.refusals import ANSWERS, Case, request
from tests.serving import PATIENCE, VLLM, Finished, Server, environment, free_port, run

pytestmark = [pytest.mark.slow, pytest.mark.serve]

LIMITS = ["--max-model-len", "512", "--max-num-seqs", "8", "--max-num-batched-tokens", "256"]


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[[str], Path]) -> Path:
    """A model that is served if all else is right."""
    return tiny_model("llama")


@pytest.fixture(scope="module")
def spoiled(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Copies of the model with something wrong."""

    def make(name: str, **config: Any) -> Path:
        directory = tmp_path_factory.mktemp("models") / name
        shutil.copytree(llama, directory)
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return directory

    return make


class TestConfiguration:
    """Refused before anything is started."""

    @pytest.fixture(scope="class")
    def cases(self, llama: Path, spoiled: Callable[..., Path]) -> dict[str, Case]:
        """Every case of this class, by the name of the parameter set below."""
        return {name: make(llama, spoiled) for name, (make, _words) in CASES.items()}

    @pytest.fixture(scope="class")
    def answers(self, cases: dict[str, Case]) -> dict[str, str]:
        """What each was answered."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.server.refusals"],
            input=request(cases),
            capture_output=True,
            text=True,
            env=environment(None),
            timeout=PATIENCE,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith(ANSWERS)]
        assert done.returncode == 0 and lines, done.stderr[-4000:]
        return json.loads(lines[0].removeprefix(ANSWERS))

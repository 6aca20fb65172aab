"""The driver on the page "Writing a driver" is as good as the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "writing-a-driver.md"


@pytest.fixture(scope="module")
def page() -> str:
    """The page's text."""
    if not PAGE.exists():
        pytest.skip("the tests lie apart from the repository, and the page with them")
    return PAGE.read_text()


def block(page: str, language: str) -> str:
    """The first code block in a language."""
    found = re.search(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_driver_on_the_page_passes_the_kit(page: str, tmp_path: Path) -> None:
    """With its code and its entry point as they stand there; here by the kit's core."""
    (tmp_path / "numpy_npu.py").write_text(block(page, "python"))
    declared = tomllib.loads(block(page, "toml"))["project"]["entry-points"]
    entry_points = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in declared.items()
    ]
    metadata = tmp_path / "numpy_npu-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy-npu\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("\n".join(entry_points))
    command = [sys.executable, "-m", "pytest", "--pyargs", "vllm_npu_runtime.conformance"]
    core = "protocol or binding or saving or mlp or softmax or mixed or chunked or generation"
    command += ["--npu-device=numpy", "-q", "--tb=short", "-k", f"{core} or varying"]
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""A minute of random prefixes under small tiers; `soak` runs for as long as you like."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_a_minute_of_random_prefixes() -> None:
    command = [sys.executable, "-m", "tests.kv_connector.soak", "--minutes", "1"]
    done = subprocess.run(
        [*command, "--host", "2", "--disk", "6"],
        cwd=ROOT,
        # OpenVINO keeps something for every number of tokens that it has computed; over a minute
        # that hides what we might keep.
        env={**os.environ, "VLLM_NPU_DEVICE": "reference"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "every limit held" in done.stdout

"""The conformance kit finds sessions that are wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

WRONG_DRIVERS = '''
from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.drivers.reference import ReferenceDriver
from vllm_npu_runtime.sessions.reference import ReferenceSession


class Mixed(ReferenceSession):
    """Slots above the first share one cache."""

    def _run(self, row):
        if row.slot and row.past:
            self._layers[row.slot] = self._layers[1] or self._layers[row.slot]
        return super()._run(row)


class Miscut(ReferenceSession):
    """Of a snapshot that is cut, the last tokens are kept instead of the first."""

    def restore(self, slot, snapshot, tokens):
        super().restore(slot, snapshot, tokens)
        parts = [part[:, :, -tokens:] for part in snapshot.parts]
        self._layers[slot] = list(zip(parts[::2], parts[1::2]))


class Driver(ReferenceDriver):
    session = ReferenceSession

    def open_session(self, directory, device, options):
        return self.session(Artifact.open(directory), options, self.name)


class MixedDriver(Driver):
    name = "mixed"
    session = Mixed


class MiscutDriver(Driver):
    name = "miscut"
    session = Miscut
'''


@pytest.mark.parametrize(
    ("driver", "caught"),
    [("mixed", {"test_greedy", "test_preemption"}), ("miscut", {"test_snapshot_is_cut"})],
)
def test_wrong_session_fails(tmp_path: Path, driver: str, caught: set[str]) -> None:
    """Slots that aren't apart, or snapshots cut at the wrong end."""
    (tmp_path / "wrong_sessions.py").write_text(WRONG_DRIVERS)
    metadata = tmp_path / "wrong_sessions-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong-sessions\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[vllm_npu.drivers]\nmixed = wrong_sessions:MixedDriver\n"
        "miscut = wrong_sessions:MiscutDriver\n"
    )
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "pytest", "--pyargs", "vllm_npu_runtime.conformance"]
    command += [f"--npu-device={driver}", "-q", "-rfE", "--tb=line", "-k", "test_sessions"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    failed = set(re.findall(r"^FAILED .*::(\w+)", done.stdout, re.MULTILINE))
    assert done.returncode == 1, done.stdout + done.stderr
    # The drivers pass no options on to be checked, which the kit finds too.
    assert caught | {"test_unknown_option_is_refused"} <= failed
    assert not failed & {"test_session_is_one", "test_closed_session_is_over"}

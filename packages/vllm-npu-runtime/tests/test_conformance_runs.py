"""The conformance kit passes the drivers that are right, and fails those that are wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

RIGHT = ["reference", "sim:small", "sim:large"]
if find_spec("openvino") is not None:
    RIGHT.append("openvino:CPU")

WRONG_DRIVERS = '''
import torch

from vllm_npu_runtime.drivers.reference import ReferenceDriver, ReferenceExecutable


class WrongScale(ReferenceDriver):
    """Attention ignores its scale and takes 1 / sqrt(16)."""

    name = "wrong_scale"

    def compile(self, program, device, options):
        for node in program.graph.graph.nodes:
            if "attention" in str(node.target):
                node.args = tuple(0.25 if type(each) is float else each for each in node.args)
        return super().compile(program, device, options)


class StaleExecutable(ReferenceExecutable):
    def bind(self, tensors):
        super().bind({name: tensor.clone() for name, tensor in tensors.items()})


class StaleInputs(ReferenceDriver):
    """What is bound is copied once, and never read again."""

    name = "stale_inputs"

    def compile(self, program, device, options):
        return StaleExecutable(program)
'''

ENTRY_POINTS = """[vllm_npu.drivers]
wrong_scale = wrong_drivers:WrongScale
stale_inputs = wrong_drivers:StaleInputs
"""


def run_kit(path: Path, device: str, *arguments: str) -> tuple[int, str]:
    """The kit's exit status and output, run as a vendor would, away from any sources."""
    empty = path / f"empty-{device.replace(':', '-')}"
    empty.mkdir()
    command = [sys.executable, "-m", "pytest", "--pyargs", "vllm_npu_runtime.conformance"]
    command += [f"--npu-device={device}", "-q", "-rfE", "--tb=short", *arguments]
    paths = [str(path), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The kit's tensors are too small to be worth a second thread.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=empty, env=environment, capture_output=True, text=True, timeout=550
    )
    return done.returncode, done.stdout + done.stderr


def failed(output: str) -> set[str]:
    """Names of the tests that failed, without their parameters."""
    return set(re.findall(r"^FAILED .*::(\w+)", output, re.MULTILINE))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[tuple[int, str]]]]:
    """All runs of the kit, two at a time."""
    path = tmp_path_factory.mktemp("drivers")
    (path / "wrong_drivers.py").write_text(WRONG_DRIVERS)
    metadata = path / "wrong_drivers-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong-drivers\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    with ThreadPoolExecutor(2) as pool:
        started = {device: pool.submit(run_kit, path, device) for device in RIGHT}
        started["wrong_scale"] = pool.submit(
            run_kit, path, "wrong_scale", "-k", "prefill or decode or soft_cap or mlp"
        )
        started["stale_inputs"] = pool.submit(
            run_kit, path, "stale_inputs", "-k", "test_binding and not closed"
        )
        started["sim:none"] = pool.submit(run_kit, path, "sim:none")
        yield started
        for run in started.values():
            run.cancel()


@pytest.mark.parametrize("device", RIGHT)
def test_right_driver_passes(runs: dict[str, Future[tuple[int, str]]], device: str) -> None:
    """Every check that its capabilities call for."""
    status, output = runs[device].result()
    assert status == 0, output
    assert " passed" in output


def test_wrong_scale_fails(runs: dict[str, Future[tuple[int, str]]]) -> None:
    """In attention, and nowhere else."""
    status, output = runs["wrong_scale"].result()
    assert status == 1, output
    assert failed(output) >= {"test_prefill", "test_decode", "test_soft_cap"}
    assert "test_mlp" not in failed(output)


def test_stale_inputs_fail(runs: dict[str, Future[tuple[int, str]]]) -> None:
    """Where a bound buffer is rewritten, and nowhere else."""
    status, output = runs["stale_inputs"].result()
    assert status == 1, output
    assert failed(output) == {"test_in_place_update_is_seen", "test_slice_of_a_buffer_can_be_bound"}


def test_unknown_device_ends_the_run(runs: dict[str, Future[tuple[int, str]]]) -> None:
    """One line names the devices that are there."""
    status, output = runs["sim:none"].result()
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "--npu-device=sim:none: Unknown device 'sim:none'" in output
    assert "sim:small" in output

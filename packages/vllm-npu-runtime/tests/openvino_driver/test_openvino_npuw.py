"""The NPU's path without an NPU: NPUW, OpenVINO's partitioner for it, on the host's processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino")

NPUW = '''
from dataclasses import replace

import torch

from vllm_npu_runtime.drivers.base import Capabilities, DeviceInfo, KVContract
from vllm_npu_runtime.drivers.openvino import OpenVINODriver
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.devices import core

OPTIONS = {"npuw": True, "npuw_devices": "CPU", "npuw_online_pipeline": "NONE"}


class NPUW(OpenVINODriver):
    """The NPU's settings, on the host."""

    name = "npuw"

    def devices(self):
        # NPUW hands no precision on, and the CPU's own default may be bfloat16.
        core().set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return [DeviceInfo("NPU", "NPUW on the host", 1 << 30, 1 << 30)]

    def capabilities(self, device):
        if device != "NPU":
            raise ConfigurationError.unknown("device", device, ["NPU"])
        return Capabilities((torch.float16,), (torch.float16,), (KVContract.GATHER,))

    def compile(self, program, device, options):
        return super().compile(program, device, _with(options))

    def begin_compile(self, program, device, options):
        return super().begin_compile(program, device, _with(options))

    def load(self, program, device, directory, options):
        return super().load(program, device, directory, _with(options))

    def begin_load(self, program, device, directory, options):
        return super().begin_load(program, device, directory, _with(options))


def _with(options):
    return replace(options, driver={**OPTIONS, **options.driver})
'''


def test_kit_passes_through_npuw(tmp_path: Path) -> None:
    """Static programs of the gather contract, saving with compiled models included."""
    (tmp_path / "npuw_driver.py").write_text(NPUW)
    metadata = tmp_path / "npuw_driver-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: npuw-driver\nVersion: 0\n")
    declared = "[vllm_npu.drivers]\nnpuw = npuw_driver:NPUW\n"
    (metadata / "entry_points.txt").write_text(declared)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "pytest", "--pyargs", "vllm_npu_runtime.conformance"]
    command += ["--npu-device=npuw:NPU", "-q", "--tb=short", "--show-capture=no"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout

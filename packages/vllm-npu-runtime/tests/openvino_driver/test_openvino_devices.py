"""Looking for OpenVINO's devices opens none in the process that looks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino")

LOOKING = """
import json, os, sys
import numpy  # which may have threads of its own

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
from vllm_npu_runtime.device import find
device = find("openvino:CPU")
known = device.capabilities.dtypes, device.driver.fingerprint("CPU"), device.driver.version()
from vllm_npu_runtime.openvino.devices import core, found
without = core.cache_info().currsize == 0
after = threads()
core()
print(json.dumps({
    "new threads": max(0, after - before),
    "without core": without,
    "same with core": known
    == (device.capabilities.dtypes, device.driver.fingerprint("CPU"), device.driver.version()),
    "telemetry": "openvino_telemetry" in sys.modules,
}))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_looking_for_devices_leaves_no_thread_and_no_open_device() -> None:
    done = subprocess.run([sys.executable, "-c", LOOKING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "new threads": 0,
        "without core": True,
        "same with core": True,
        "telemetry": False,
    }

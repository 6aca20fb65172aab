"""A machine with nothing wrong."""

from pathlib import Path

import pytest

from vllm_npu_runtime.doctor.environment import Environment, Installed
from vllm_npu_runtime.doctor.inventory import DriverReport
from vllm_npu_runtime.doctor.probe import Found

from .machine import EXPLAINER, HOST, OURS, PLATFORM, STATISTICS


@pytest.fixture
def healthy(tmp_path: Path) -> Environment:
    """Nothing wrong."""
    found = Found(
        drivers=[DriverReport(name="reference", version="1", devices=[HOST])], device="reference"
    )
    return Environment(
        variables={
            "VLLM_NPU_DEVICE": "reference",
            "VLLM_CACHE_ROOT": str(tmp_path),
            "OMP_WAIT_POLICY": "passive",
        },
        python="3.11.7",
        installed={
            "vllm-npu-runtime": Installed("0.1.0"),
            "vllm-npu-platform": Installed("0.1.0", frozenset({"vllm-npu-runtime", "vllm"})),
            "vllm-npu": Installed("0.1.0", OURS),
            "vllm": Installed("0.32.0+empty"),
            "torch": Installed("2.13.0+cpu"),
            "numba": Installed("0.68.1"),
        },
        plugins=(PLATFORM, EXPLAINER, STATISTICS),
        drivers=("reference",),
        find=lambda: found,
    )

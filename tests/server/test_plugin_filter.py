"""`VLLM_PLUGINS` and `VLLM_NPU_DEVICE` decide what is active; what isn't says why, in one line."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.server.plugin_probe import ANSWERS
from tests.serving import run

pytestmark = pytest.mark.slow

CASES: dict[str, dict[str, str | None]] = {
    "unset": {"VLLM_PLUGINS": None},
    "npu": {"VLLM_PLUGINS": "npu"},
    "npu,npu_stats": {"VLLM_PLUGINS": "npu,npu_stats"},
    "npu_stats": {"VLLM_PLUGINS": "npu_stats"},
    "npu_stats, npu": {"VLLM_PLUGINS": "npu_stats, npu"},
    "no device": {"VLLM_NPU_DEVICE": None},
    "auto": {"VLLM_NPU_DEVICE": "auto"},
    "unknown device": {"VLLM_NPU_DEVICE": "refrence"},
}
PLATFORM = "NPUPlatform"
NONE = "UnspecifiedPlatform"
STATS = ["NPUStatLogger"]


@pytest.fixture(scope="module")
def probed() -> dict[str, dict[str, Any]]:
    """What vLLM activates, and what is said, for each of the cases."""
    cases = {
        name: {"VLLM_NPU_DEVICE": "reference", "VLLM_PLUGINS": None, **variables}
        for name, variables in CASES.items()
    }
    done = run([sys.executable, "-m", "tests.server.plugin_probe"], stdin=json.dumps(cases))
    assert done.returncode == 0, done.last_lines()
    (line,) = [line for line in done.output.splitlines() if line.startswith(ANSWERS)]
    return json.loads(line.removeprefix(ANSWERS))


def explanations(answer: dict[str, Any]) -> list[str]:
    """What we said about staying away."""
    return [line for line in answer["said"].splitlines() if "stays inactive" in line]


@pytest.mark.parametrize("case", ["unset", "npu,npu_stats"])
def test_platform_and_statistics_are_active(probed: dict[str, Any], case: str) -> None:
    assert probed[case]["platform"] == PLATFORM, probed[case]["said"]
    assert probed[case]["stats"] == STATS
    assert explanations(probed[case]) == []


def test_the_platform_alone_is_active(probed: dict[str, Any]) -> None:
    assert probed["npu"]["platform"] == PLATFORM
    assert probed["npu"]["stats"] == []
    assert explanations(probed["npu"]) == []


def test_statistics_without_the_platform_are_explained(probed: dict[str, Any]) -> None:
    answer = probed["npu_stats"]
    assert answer["platform"] == NONE
    assert answer["stats"] == STATS
    (line,) = explanations(answer)
    assert "VLLM_PLUGINS='npu_stats' leaves out 'npu', the platform. Add 'npu' to it" in line


def test_a_space_in_the_filter_is_explained(probed: dict[str, Any]) -> None:
    answer = probed["npu_stats, npu"]
    assert answer["platform"] == NONE
    (line,) = explanations(answer)
    assert "VLLM_PLUGINS='npu_stats, npu' leaves out 'npu'" in line


@pytest.mark.parametrize("case", ["no device", "auto"])
def test_a_machine_without_an_npu_is_explained(probed: dict[str, Any], case: str) -> None:
    answer = probed[case]
    if answer["platform"] == PLATFORM:
        pytest.skip("this machine has an NPU, and that is what runs")
    (line,) = explanations(answer)
    assert "No NPU was found" in line
    assert "set VLLM_NPU_DEVICE=" in line


def test_an_unknown_device_is_not_left_to_another_platform(probed: dict[str, Any]) -> None:
    """The platform is active, and refuses: see `test_bad_input`."""
    assert probed["unknown device"]["platform"] == PLATFORM
    assert explanations(probed["unknown device"]) == []

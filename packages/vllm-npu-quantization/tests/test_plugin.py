"""The plugin: cheap to import, registered once, and no trouble to other platforms."""

from __future__ import annotations

import subprocess
import sys

import pytest

# vLLM's registry asks for no device, so any platform will do.
ELSEWHERE = """
import vllm.platforms as platforms
from vllm.platforms.interface import Platform, PlatformEnum, UnspecifiedPlatform

class Other(UnspecifiedPlatform):
    _enum = PlatformEnum.OOT

platforms._current_platform = Other()

from vllm_npu_quantization import register
register()
register()

from vllm.model_executor.kernels.linear import _POSSIBLE_KERNELS
from vllm_npu_quantization.kernel import NPUWNA16LinearKernel

assert _POSSIBLE_KERNELS[PlatformEnum.OOT] == [NPUWNA16LinearKernel], _POSSIBLE_KERNELS
can, reason = NPUWNA16LinearKernel.can_implement(None)
assert not can and "vllm-npu-platform" in reason

from vllm.model_executor.layers.quantization import get_quantization_config
for name in ("gptq", "awq", "compressed-tensors"):
    assert get_quantization_config(name).__module__.startswith("vllm."), name
"""

OURS = """
import vllm.platforms as platforms
from vllm.platforms.interface import PlatformEnum, UnspecifiedPlatform

class Ours(UnspecifiedPlatform):
    _enum = PlatformEnum.OOT

Ours.__module__ = "vllm_npu_platform.platform"
platforms._current_platform = Ours()

from vllm_npu_quantization import register
register()

from vllm.model_executor.layers.quantization import get_quantization_config
for name in ("gptq", "auto_gptq", "gptq_marlin", "awq", "auto_awq", "compressed-tensors"):
    assert get_quantization_config(name).__module__.startswith("vllm_npu_quantization."), name

import torch
from vllm.model_executor.kernels.linear import MPLinearLayerConfig, choose_mp_linear_kernel
from vllm.scalar_type import scalar_types

def config(**changes):
    given = dict(
        full_weight_shape=(256, 64), partition_weight_shape=(256, 64),
        weight_type=scalar_types.uint4b8, act_type=torch.float32, group_size=128,
        zero_points=False,
    )
    return MPLinearLayerConfig(**(given | changes))

assert choose_mp_linear_kernel(config()).__name__ == "NPUWNA16LinearKernel"
try:
    choose_mp_linear_kernel(config(
        weight_type=scalar_types.uint2b2, group_size=48, partition_weight_shape=(100, 64)
    ))
except ValueError as error:
    for words in ("Weights are uint2b2", "group size is 48", "100 inputs are no multiple"):
        assert words in str(error), error
else:
    raise AssertionError
"""

CHEAP = """
import sys
import vllm_npu_quantization

assert not {"torch", "vllm"} & sys.modules.keys()
"""


@pytest.mark.parametrize("code", [CHEAP, ELSEWHERE, OURS], ids=["import", "elsewhere", "ours"])
def test_in_a_process_of_its_own(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it loads nothing; on another platform vLLM's configs stay, on ours not."""
    monkeypatch.setenv("VLLM_NPU_DEVICE", "reference")
    monkeypatch.setenv("VLLM_PLUGINS", "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]

"""What the tests of the paper NPU share."""

from __future__ import annotations

import pytest
import torch

from vllm_npu_runtime.drivers.sim import SimDriver
from vllm_npu_runtime.program import Program

from .paper import make


@pytest.fixture
def driver() -> SimDriver:
    """A driver of its own for each test."""
    return SimDriver()


@pytest.fixture(scope="module")
def product() -> Program:
    """x @ w, 8 x 16 by 16 x 4 in float32."""
    return make(lambda x, w: x @ w, x=torch.randn(8, 16), w=torch.randn(16, 4))

"""What the host's processor computes in. Whoever needs to know asks here, and nowhere else.

`VARIABLE` has a processor taken for a lesser one: to test on a server what runs on a laptop, or to
find out whether numbers are due to 16-bit arithmetic. Processes that are started inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import cache

import numpy as np
import torch

from vllm_npu_runtime.asking import can_ask, in_child
from vllm_npu_runtime.errors import ConfigurationError

VARIABLE = "NPU_OPENVINO_CPU_DTYPES"
"""Dtypes that the processor is taken to compute in, as "float32" or "bfloat16,float32"; a part of
those that it does compute in, float32 among them."""

# Not float16: in that, PagedAttention is wrong for several tokens of a request (2026.4.1).
_OFFERED = {"BF16": torch.bfloat16, "FP32": torch.float32}
_GROUP, _INPUTS, _OUTPUTS = 32, 64, 32


def computed_dtypes(offered: Collection[str]) -> tuple[torch.dtype, ...]:
    """The dtypes that the processor computes in, fastest first.

    Args:
        offered: OpenVINO's `OPTIMIZATION_CAPABILITIES` of its CPU device.

    Raises:
        ConfigurationError: `VARIABLE` names what the processor doesn't compute in, or leaves
            float32 out, in which float16 models are computed.
    """
    real = tuple(dtype for name, dtype in _OFFERED.items() if name in offered)
    if (given := os.environ.get(VARIABLE)) is None:
        return real
    names = {_name(dtype): dtype for dtype in real}
    wanted = [part.strip() for part in given.split(",")]
    if unknown := [each for each in wanted if each not in names]:
        raise ConfigurationError(
            f"{VARIABLE}={given}: this processor doesn't compute in {', '.join(unknown)}, and "
            f"can't be taken for a better one. It has {', '.join(names)}: name some of these, or "
            "unset the variable."
        )
    if _name(torch.float32) not in wanted:
        raise ConfigurationError(
            f"{VARIABLE}={given}: every processor computes in float32. Name it too."
        )
    return tuple(dtype for name, dtype in names.items() if name in wanted)


def closest(dtype: torch.dtype, computed: Collection[torch.dtype]) -> torch.dtype:
    """What a model of a dtype is computed in: itself, or float32, which holds all its numbers."""
    return dtype if dtype in computed else torch.float32


@cache
def rounds_activations() -> bool:
    """Whether the processor's kernels round activations to eight bits when they are asked to.

    OpenVINO takes the request on every processor and heeds it where there are instructions for
    products of bytes. So a small product is run both ways.
    """
    from vllm_npu_runtime.openvino.devices import core

    if core.cache_info().currsize or not can_ask():
        return _rounds()
    return in_child("Asking OpenVINO whether it rounds activations", _rounds)


def _rounds() -> bool:
    import openvino as ov
    import openvino.opset15 as ops

    from vllm_npu_runtime.openvino.devices import core

    random = np.random.default_rng(0)
    x = ops.parameter([-1, _INPUTS], ov.Type.f32)
    weight = ops.constant(random.integers(0, 256, (_OUTPUTS, _INPUTS), np.uint8))
    middle = ops.constant(np.full((1, 1), 128, np.uint8))
    scale = ops.constant(np.full((_OUTPUTS, 1), 1 / 128, np.float32))
    dense = ops.multiply(
        ops.subtract(ops.convert(weight, "f32"), ops.convert(middle, "f32")), scale
    )
    model = ov.Model([ops.matmul(x, dense, False, True)], [x])
    row = random.standard_normal((1, _INPUTS), np.float32)

    def run(group: int) -> np.ndarray:
        config = {
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group),
            "INFERENCE_NUM_THREADS": 1,
        }
        result: np.ndarray = core().compile_model(model.clone(), "CPU", config)(row)[0]
        return result

    return not np.allclose(run(0), run(_GROUP), rtol=1e-5, atol=1e-5)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

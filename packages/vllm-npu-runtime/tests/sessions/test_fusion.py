"""OpenVINO's fused feed-forward layer is used where it has work for its threads, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vllm_npu_runtime.sessions.base import Row, Session


@pytest.mark.parametrize(
    ("hidden", "intermediate", "threads", "safe"),
    [
        (1024, 2816, 2, True),
        (4096, 14336, 64, True),
        (1024, 2816, 1, False),
        (1024, 2816, 48, False),
        (64, 64, 2, True),
        (64, 32, 2, False),
        (1000, 2816, 2, False),
    ],
)
def test_where_it_is_safe(hidden: int, intermediate: int, threads: int, safe: bool) -> None:
    from vllm_npu_runtime.openvino.sessions.graphs import fuses_safely

    assert fuses_safely(hidden, intermediate, threads) is safe


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_any_number_of_threads_runs(
    opened: Callable[..., Session], tokens: torch.Tensor, threads: int
) -> None:
    """With one thread the fused layer would end the process."""
    options: dict[str, Any] = {"driver": {"threads": threads}}
    row = Row(0, 0, tokens[:50])
    given = opened("openvino:CPU", dtype="bfloat16", **options).infer([row]).values
    wanted = opened("reference", dtype="bfloat16").infer([row]).values.float()
    assert float((given - wanted).abs().mean()) < 0.02 * float(wanted.abs().mean())

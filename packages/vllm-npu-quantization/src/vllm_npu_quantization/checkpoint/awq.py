"""What AWQ's layers must hold."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from vllm_npu_quantization.checkpoint.files import Layer
from vllm_npu_quantization.checkpoint.findings import (
    FLOATS,
    check_layers,
    divides,
    expect,
    expect_dtype,
    finite,
    groups,
)


def check_awq(config: Any, model: str, revision: str | None) -> bool:
    """Check a checkpoint against its config, if it lies on disk.

    Returns:
        Whether it does.

    Raises:
        ConfigurationError: all problems at once.
    """
    return check_layers("AWQ", model, revision, ("qweight",), partial(_layer, config.group_size))


def _layer(size: int, layer: Layer) -> Iterator[str]:
    if problem := expect_dtype(layer, "qweight", "I32"):
        yield problem
        return
    inputs, words = layer["qweight"].shape
    wrong = list(divides(size, inputs))
    if not wrong:
        count = groups(size, inputs)
        wrong += expect(layer, "scales", FLOATS, (count, words * 8))
        wrong += expect(layer, "qzeros", ("I32",), (count, words))
    if not wrong:
        wrong += finite(layer["scales"], "scales")
    yield from wrong

"""What GPTQ's layers must hold."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import partial
from typing import Any

import torch
from vllm.model_executor.layers.quantization.utils.gptq_utils import override_config

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
from vllm_npu_runtime.ops.packing import unpack


def check_gptq(config: Any, model: str, revision: str | None) -> bool:
    """Check a checkpoint against its config, if it lies on disk.

    Returns:
        Whether it does.

    Raises:
        ConfigurationError: all problems at once.
    """
    return check_layers("GPTQ", model, revision, ("qweight",), partial(_layer, config))


def _layer(config: Any, layer: Layer) -> Iterator[str]:
    name = layer["qweight"].name.removesuffix(".qweight")
    config = copy(config)
    override_config(config, name)
    if problem := expect_dtype(layer, "qweight", "I32"):
        yield problem
        return
    words, outputs = layer["qweight"].shape
    inputs, size = words * 32 // config.weight_bits, config.group_size
    wrong = list(divides(size, inputs))
    if "g_idx" in layer:
        wrong += expect(layer, "g_idx", ("I32", "I64"), (inputs,))
    if not wrong:
        count = groups(size, inputs)
        wrong += expect(layer, "scales", FLOATS, (count, outputs))
        if "qzeros" in layer:
            words = outputs * config.weight_bits // 32
            wrong += expect(layer, "qzeros", ("I32",), (count, words))
    if not wrong:
        wrong += finite(layer["scales"], "scales")
        wrong += _values(config, layer, inputs)
    yield from wrong


def _values(config: Any, layer: Layer, inputs: int) -> Iterator[str]:
    """Zero points and the order of inputs, which symmetric weights without reordering leave at
    their defaults."""
    bits, size = config.weight_bits, config.group_size
    if "qzeros" in layer:
        # The first version of the format keeps zero points less one.
        first = config.full_config.get("checkpoint_format", "gptq") != "gptq_v2"
        default = (1 << (bits - 1)) - first
        codes = unpack(layer["qzeros"].load().contiguous().view(torch.uint8), bits)
        if bool((codes != default).any()):
            yield (
                f"'qzeros' are not all {default}, the zero point of symmetric weights: asymmetric "
                'weights are not supported. Quantize it with "sym": true.'
            )
    if "g_idx" in layer and size != -1:
        order = layer["g_idx"].load()
        if not torch.equal(order.long(), torch.arange(inputs) // size):
            yield (
                "'g_idx' reorders the inputs (act-order), which is not supported. Quantize it with "
                '"desc_act": false, or with "static_groups": true.'
            )

"""From checkpoints' layouts to the operator's, a layer at a time and without unpacking to int32.

Parameters are vLLM's: they tell which dimension is input, output, and packed into int32 words.
The operator's layout is described in `vllm_npu_runtime.ops.packing`.
"""

from __future__ import annotations

from typing import Any

import torch

from vllm_npu_runtime.ops.packing import pack, unpack

_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where AWQ's int32 word holds each of eight neighbouring outputs."""


def weight(parameter: Any) -> torch.Tensor:
    """Weights packed along their inputs, int32, as uint8 `[outputs, bytes]`."""
    data = parameter.data if parameter.input_dim == 1 else parameter.data.t()
    return data.contiguous().view(torch.uint8)


def scales(parameter: Any) -> torch.Tensor:
    """Scales as `[outputs, groups]`."""
    data: torch.Tensor = parameter.data if parameter.output_dim == 0 else parameter.data.t()
    return data.contiguous()


def zero_points(parameter: Any, bits: int) -> torch.Tensor:
    """Zero points packed along the outputs, int32, as uint8 `[outputs, groups]`."""
    data = parameter.data.t() if parameter.output_dim == 0 else parameter.data
    return unpack(data.contiguous().view(torch.uint8), bits).t().contiguous()


def awq_codes(words: torch.Tensor) -> torch.Tensor:
    """Codes that AWQ packs along the outputs, int32 `[rows, outputs / 8]`, as uint8
    `[rows, outputs]`."""
    codes = unpack(words.contiguous().view(torch.uint8), 4)
    return codes.unflatten(1, (-1, 8))[:, :, list(_AWQ_ORDER)].flatten(1)


def awq_weight(words: torch.Tensor) -> torch.Tensor:
    """AWQ's weights, int32 `[inputs, outputs / 8]`, as uint8 `[outputs, inputs / 2]`."""
    return pack(awq_codes(words).t(), 4)


def int8_weight(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Signed codes in a byte each, int8 `[outputs, inputs]`, as unsigned packed bytes."""
    shifted = torch.bitwise_xor(codes.view(torch.uint8), 1 << (bits - 1))
    return pack(torch.bitwise_and(shifted, (1 << bits) - 1), bits)

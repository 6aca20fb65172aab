"""Packed integer weights: their layout, and their way back to floating point.

Weights lie row by row, a row for each output, as one tensor of bytes. With 8 bits a byte is a
code. With 4 bits a byte holds the codes of two neighbouring inputs, the first in its low half. So
do int32 words of compressed-tensors and (transposed) of GPTQ, read as bytes.

Codes are unsigned. What one stands for is ``(code - zero point) * scale``; zero point and scale
are shared by a group of neighbouring inputs of one output.

Shape letters: N outputs, K inputs, G groups of a row, P bytes of a row (K, or K / 2 with 4 bits).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from vllm_npu_runtime.errors import BadShapeError

GROUP_SIZES = (32, 64, 128)
"""Inputs that share a scale; beside these, a group may be the whole row."""

SCALE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class WeightFormat:
    """A packed weight format.

    Attributes:
        bits: of a code.
        zero_point: the code of zero; None: each group brings its own.
    """

    bits: int
    zero_point: int | None


WEIGHT_FORMATS: Mapping[str, WeightFormat] = {
    "uint4b8": WeightFormat(4, 8),
    "uint8b128": WeightFormat(8, 128),
    "uint4": WeightFormat(4, None),
    "uint8": WeightFormat(8, None),
}
"""By the name that `Capabilities.weight_formats` lists, which is also vLLM's scalar type."""


def format_name(bits: int, has_zero_points: bool) -> str:
    """The format's name.

    Raises:
        BadShapeError: there is no format of so many bits.
    """
    for name, each in WEIGHT_FORMATS.items():
        if each.bits == bits and (each.zero_point is None) is has_zero_points:
            return name
    raise BadShapeError(f"Packed weights have 4 or 8 bits, not {bits}.")


def pack(codes_NK: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes in a byte each, uint8 `[N, K]`, as packed bytes, uint8 `[N, P]`."""
    if bits == 8:
        return codes_NK.contiguous()
    return (codes_NK[:, 0::2] | (codes_NK[:, 1::2] << 4)).contiguous()


def unpack(weight_NP: torch.Tensor, bits: int) -> torch.Tensor:
    """Packed bytes as codes in a byte each, uint8 `[N, K]`."""
    if bits == 8:
        return weight_NP
    halves = [torch.bitwise_and(weight_NP, 15), torch.bitwise_right_shift(weight_NP, 4)]
    return torch.stack(halves, -1).reshape(weight_NP.shape[0], -1)


def dequantize(
    weight_NP: torch.Tensor, scale_NG: torch.Tensor, zero_point_NG: torch.Tensor | None, bits: int
) -> torch.Tensor:
    """What packed weights stand for, float32 `[N, K]`.

    Args:
        weight_NP: uint8.
        scale_NG: floating.
        zero_point_NG: uint8; None: half of the range, 8 or 128.
        bits: 4 or 8.
    """
    rows, groups = scale_NG.shape
    codes = unpack(weight_NP, bits).reshape(rows, groups, -1).float()
    if zero_point_NG is None:
        centred = codes - float(1 << (bits - 1))
    else:
        centred = codes - zero_point_NG.unsqueeze(-1).float()
    return (centred * scale_NG.unsqueeze(-1).float()).reshape(rows, -1)


def check(
    inputs: int,
    weight_NP: torch.Tensor,
    scale_NG: torch.Tensor,
    zero_point_NG: torch.Tensor | None,
    bits: int,
) -> None:
    """Refuse tensors that don't belong together.

    Args:
        inputs: K, of what the weights are multiplied with.
        weight_NP: see `dequantize`.
        scale_NG: see `dequantize`.
        zero_point_NG: see `dequantize`.
        bits: see `dequantize`.

    Raises:
        BadShapeError: names the tensor, what it is, and what it should be.
    """
    if bits not in (4, 8):
        raise BadShapeError(f"Packed weights have 4 or 8 bits, not {bits}.")
    rows = weight_NP.shape[0]
    if weight_NP.dtype is not torch.uint8 or weight_NP.shape[1] * 8 != inputs * bits:
        raise BadShapeError(
            f"Packed weights are {weight_NP.dtype} {list(weight_NP.shape)}; {inputs} inputs of "
            f"{bits} bits are torch.uint8 [outputs, {inputs * bits // 8}]."
        )
    if scale_NG.dtype not in SCALE_DTYPES or scale_NG.dim() != 2 or scale_NG.shape[0] != rows:
        raise BadShapeError(
            f"Scales are {scale_NG.dtype} {list(scale_NG.shape)}; they are floating "
            f"[{rows}, groups]."
        )
    groups = scale_NG.shape[1]
    size = inputs // groups
    if inputs % groups or (groups > 1 and size not in GROUP_SIZES):
        raise BadShapeError(
            f"{groups} scales for {inputs} inputs: a group has {', '.join(map(str, GROUP_SIZES))} "
            "inputs, or all of them."
        )
    if zero_point_NG is not None and (
        zero_point_NG.dtype is not torch.uint8 or zero_point_NG.shape != scale_NG.shape
    ):
        raise BadShapeError(
            f"Zero points are {zero_point_NG.dtype} {list(zero_point_NG.shape)}; they are "
            f"torch.uint8 {list(scale_NG.shape)}, as many as scales."
        )

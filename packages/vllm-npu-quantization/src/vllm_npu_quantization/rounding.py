"""Symmetric rounding to nearest, with each group's range clipped where that lowers its error.

A range that covers a group's largest weight wastes codes on the few large ones. So the range is
searched for: of some fractions of the whole, the one with the smallest mean squared error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vllm_npu_runtime.ops.packing import pack

FRACTIONS = {
    4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6),
    8: (1.0, 0.95, 0.9, 0.85),
}
"""Of a group's range, by the bits of a code."""

CHUNK = 1 << 18
"""Weights that are worked on at a time: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Rounded:
    """A layer's weights, quantized.

    Attributes:
        weight: packed, uint8 `[N, P]`; see `vllm_npu_runtime.ops.packing`.
        scale: `[N, G]` in the dtype of the weights.
        squared_error: sum over all weights.
        squared_norm: of the weights.
        clipped: weights outside of their group's range.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    squared_error: float
    squared_norm: float
    clipped: int

    @property
    def relative_error(self) -> float:
        """Norm of the error over the norm of the weights; 0 for weights that are all zero."""
        return (self.squared_error / self.squared_norm) ** 0.5 if self.squared_norm else 0.0


@torch.no_grad()
def round_weight(weight_NK: torch.Tensor, bits: int, group_size: int) -> Rounded:
    """Quantize a layer, with no more than `CHUNK` of its weights in float32 at a time.

    Args:
        weight_NK: floating `[N, K]`, finite.
        bits: 4 or 8.
        group_size: inputs that share a scale; -1: all of a row's.
    """
    outputs, inputs = weight_NK.shape
    size = inputs if group_size == -1 else group_size
    packed = torch.empty(outputs, inputs * bits // 8, dtype=torch.uint8)
    scale = torch.empty(outputs, inputs // size, dtype=weight_NK.dtype)
    error, norm, clipped = 0.0, 0.0, 0
    step = max(1, CHUNK // inputs)
    for begin in range(0, outputs, step):
        rows = slice(begin, begin + step)
        groups = weight_NK[rows].float().reshape(-1, inputs // size, size)
        chosen, errors = _search(groups, bits, weight_NK.dtype)
        codes, outside = _codes(groups, chosen.float(), bits)
        packed[rows] = pack(codes.flatten(1), bits)
        scale[rows] = chosen
        error += float(errors.sum(dtype=torch.float64))
        norm += float(groups.square().sum(dtype=torch.float64))
        clipped += outside
    return Rounded(packed, scale, error, norm, clipped)


def _search(
    groups: torch.Tensor, bits: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best scale of each group, and the squared error with it; both without the last axis."""
    # Codes go from -2^(bits - 1) to 2^(bits - 1) - 1: their middle is half a step below zero.
    whole = groups.abs().amax(-1) / ((1 << bits) - 1) * 2
    best = errors = None
    for fraction in _fractions(bits):
        scale = (whole * fraction).to(dtype)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        now = _squared_error(groups, scale.float(), bits)
        if best is None or errors is None:
            best, errors = scale, now
        else:
            better = now < errors
            best, errors = torch.where(better, scale, best), torch.where(better, now, errors)
    assert best is not None and errors is not None
    return best, errors


def _fractions(bits: int) -> Sequence[float]:
    return FRACTIONS[bits]


def _squared_error(groups: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    half = 1 << (bits - 1)
    scale = scale.unsqueeze(-1)
    rounded = (groups / scale).round_().clamp_(-half, half - 1).mul_(scale)
    return rounded.sub_(groups).square_().sum(-1)


def _codes(groups: torch.Tensor, scale: torch.Tensor, bits: int) -> tuple[torch.Tensor, int]:
    """Codes in a byte each, in the shape of the weights, and how many lay outside of the range."""
    half = 1 << (bits - 1)
    rounded = (groups / scale.unsqueeze(-1)).round_()
    outside = int(((rounded < -half) | (rounded > half - 1)).sum())
    return rounded.clamp_(-half, half - 1).add_(half).to(torch.uint8), outside

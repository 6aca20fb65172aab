"""Weights rounded to integers, with what a format's layout needs of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rounded:
    """A layer's weights as codes.

    Attributes:
        codes: uint8 `[outputs, inputs]`.
        scale: float16 values in float32, `[outputs, groups]`.
        zero: uint8 `[outputs, groups]`.
        bits: of a code.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    bits: int

    @property
    def dense(self) -> torch.Tensor:
        """What the codes stand for, float32 `[outputs, inputs]`."""
        outputs, groups = self.scale.shape
        grouped = self.codes.float().reshape(outputs, groups, -1)
        return ((grouped - self.zero[..., None].float()) * self.scale[..., None]).flatten(1)


def round_to(weight: torch.Tensor, bits: int, group: int, symmetric: bool = True) -> Rounded:
    """Round to nearest, in groups of inputs (-1: all of a row)."""
    outputs, inputs = weight.shape
    grouped = weight.float().reshape(outputs, 1 if group == -1 else inputs // group, -1)
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    most = (1 << bits) - 1
    if symmetric:
        scale = torch.maximum(-low, high) / ((most - 1) / 2)
        zero = torch.full_like(scale, 1 << (bits - 1))
    else:
        scale = (high - low) / most
    scale = scale.clamp(min=1e-4).half().float()
    if not symmetric:
        zero = (-low / scale).round().clamp(0, most)
    codes = (grouped / scale[..., None] + zero[..., None]).round().clamp(0, most)
    return Rounded(codes.flatten(1).to(torch.uint8), scale, zero.to(torch.uint8), bits)

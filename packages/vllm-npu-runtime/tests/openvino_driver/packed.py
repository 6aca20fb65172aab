"""Random packed weights of one layer, and the product with them."""

from __future__ import annotations

import torch

INPUTS, OUTPUTS = 256, 64


def packed_weights(
    bits: int = 4, group: int = 64, zero_point: bool = False, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Weights, scales of a dtype and, where asked for, zero points, named as `make` takes them."""
    groups = 1 if group == -1 else INPUTS // group
    weights = {
        "w": torch.randint(0, 256, (OUTPUTS, INPUTS * bits // 8), dtype=torch.uint8),
        "w_scale": (torch.rand(OUTPUTS, groups) / INPUTS).to(dtype),
    }
    if zero_point:
        weights["w_zero"] = torch.randint(0, 1 << bits, (OUTPUTS, groups), dtype=torch.uint8)
    return weights


def packed_product(x: torch.Tensor, bits: int = 4, **weights: torch.Tensor) -> torch.Tensor:
    """Of activations `[N, INPUTS]`: `[N, OUTPUTS]`."""
    out: torch.Tensor = torch.ops.vllm_npu.wna16_linear(
        x, weights["w"], weights["w_scale"], weights.get("w_zero"), None, bits
    )
    return out

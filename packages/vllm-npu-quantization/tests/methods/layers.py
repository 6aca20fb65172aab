"""One quantized layer in each checkpoint format, written down number by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

INPUTS, OUTPUTS, GROUP = 64, 16, 32
NAME = "model.layers.0.self_attn.o_proj"
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Tensors = dict[str, torch.Tensor]


def words(codes: torch.Tensor, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Codes packed along the last axis into int32 words, the first in the lowest bits."""
    count = 32 // bits
    rows = []
    for row in codes.long().reshape(-1, codes.shape[-1]).tolist():
        packed = []
        for start in range(0, len(row), count):
            word = sum(
                row[start + (order[place] if order else place)] << (bits * place)
                for place in range(count)
            )
            packed.append(word - (1 << 32) if word >> 31 else word)
        rows.append(packed)
    return torch.tensor(rows, dtype=torch.int32).reshape(*codes.shape[:-1], -1)


def codes(bits: int) -> torch.Tensor:
    """Random codes, uint8 `[OUTPUTS, INPUTS]`."""
    return torch.randint(0, 1 << bits, (OUTPUTS, INPUTS), dtype=torch.uint8)


def gptq(bits: int = 4) -> Tensors:
    """AutoGPTQ's."""
    groups = INPUTS // GROUP
    return {
        "qweight": words(codes(bits).t().contiguous().t(), bits).t().contiguous(),
        "qzeros": words(torch.full((groups, OUTPUTS), (1 << (bits - 1)) - 1), bits),
        "scales": torch.rand(groups, OUTPUTS).half(),
        "g_idx": (torch.arange(INPUTS) // GROUP).int(),
    }


def awq() -> Tensors:
    """AutoAWQ's "gemm"."""
    groups = INPUTS // GROUP
    return {
        "qweight": words(codes(4).t(), 4, AWQ_ORDER),
        "qzeros": words(torch.randint(0, 16, (groups, OUTPUTS)), 4, AWQ_ORDER),
        "scales": torch.rand(groups, OUTPUTS).half(),
    }


def packed(symmetric: bool = True) -> Tensors:
    """compressed-tensors', pack-quantized."""
    groups = INPUTS // GROUP
    tensors = {
        "weight_packed": words(codes(4), 4),
        "weight_scale": torch.rand(OUTPUTS, groups).half(),
        "weight_shape": torch.tensor([OUTPUTS, INPUTS]),
    }
    if not symmetric:
        zero = torch.randint(0, 16, (groups, OUTPUTS))
        tensors["weight_zero_point"] = words(zero, 4).t().contiguous()
    return tensors


def int8() -> Tensors:
    """compressed-tensors', int-quantized."""
    return {
        "weight": torch.randint(-128, 128, (OUTPUTS, INPUTS), dtype=torch.int8),
        "weight_scale": torch.rand(OUTPUTS, INPUTS // GROUP).half(),
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP,
        "sym": True,
        "desc_act": False,
    },
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": GROUP,
        "zero_point": True,
        "version": "gemm",
    },
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 4,
                    "type": "int",
                    "symmetric": True,
                    "strategy": "group",
                    "group_size": GROUP,
                },
            }
        },
    },
}


def checkpoint(directory: Path, **layers: Tensors) -> Path:
    """A directory with these layers, by name; ``_`` stands for a dot."""
    tensors = {
        f"{name.replace('__', '.')}.{suffix}": tensor
        for name, layer in layers.items()
        for suffix, tensor in layer.items()
    }
    save_file({**tensors, "model.norm.weight": torch.ones(4)}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({}))
    return directory

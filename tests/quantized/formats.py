"""A layer's tensors in each format."""

from __future__ import annotations

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

from tests.quantized.rounding import Rounded

Tensors = dict[str, torch.Tensor]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def words(codes: torch.Tensor, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Codes packed along the last axis into int32 words.

    Args:
        codes: integers `[…, n]`.
        bits: of a code; a word holds the first in its lowest bits.
        order: which of a word's codes comes first, second, …; None: as they stand.
    """
    count = 32 // bits
    grouped = codes.long().unflatten(-1, (-1, count))
    packed = torch.zeros(grouped.shape[:-1], dtype=torch.int64)
    for place in range(count):
        packed |= grouped[..., order[place] if order else place] << (bits * place)
    return (packed - ((packed >> 31) << 32)).to(torch.int32)


def gptq(layer: Rounded, group: int) -> Tensors:
    """AutoGPTQ's: words along the inputs; zero points less one, along the outputs."""
    inputs = layer.codes.shape[1]
    return {
        "qweight": words(layer.codes, layer.bits).t().contiguous(),
        "qzeros": words(layer.zero.t() - 1, layer.bits),
        "scales": layer.scale.t().contiguous().half(),
        "g_idx": (torch.arange(inputs) // (inputs if group == -1 else group)).int(),
    }


def awq(layer: Rounded, group: int) -> Tensors:
    """AutoAWQ's "gemm": words along the outputs, interleaved."""
    return {
        "qweight": words(layer.codes.t(), 4, AWQ_ORDER),
        "qzeros": words(layer.zero.t(), 4, AWQ_ORDER),
        "scales": layer.scale.t().contiguous().half(),
    }


def compressed(layer: Rounded, arguments: QuantizationArgs, form: str) -> Tensors:
    """compressed-tensors', by its own compressor, which rounds to these very codes again."""
    compressor = BaseCompressor.get_value_from_registry(form)
    half = 1 << (layer.bits - 1)
    tensors = {"weight": layer.dense, "weight_scale": layer.scale}
    if not arguments.symmetric:
        tensors["weight_zero_point"] = (layer.zero.int() - half).to(torch.int8)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments, format=form)
    made = compressor.compress(tensors, scheme)
    made["weight_scale"] = made["weight_scale"].half()
    return {name: tensor.contiguous() for name, tensor in made.items() if tensor is not None}

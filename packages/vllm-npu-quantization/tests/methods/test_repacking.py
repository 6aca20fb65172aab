"""From checkpoints' layouts to the operator's: the same codes, wherever they lay."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vllm_npu_quantization import repacking
from vllm_npu_runtime.ops.packing import unpack

from .layers import AWQ_ORDER, INPUTS, OUTPUTS, codes, words


def parameter(data: torch.Tensor, input_dim: int) -> SimpleNamespace:
    """As vLLM's parameters tell their dimensions."""
    return SimpleNamespace(data=data, input_dim=input_dim, output_dim=1 - input_dim)


@pytest.mark.parametrize("bits", [4, 8])
def test_words_along_inputs(bits: int) -> None:
    """GPTQ has inputs first, compressed-tensors outputs first."""
    given = codes(bits)
    packed = words(given, bits)
    for each in (parameter(packed, 1), parameter(packed.t().contiguous(), 0)):
        made = repacking.weight(each)
        assert made.shape == (OUTPUTS, INPUTS * bits // 8)
        assert torch.equal(unpack(made, bits), given)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_along_outputs(bits: int) -> None:
    """A byte each, `[outputs, groups]`."""
    zero = torch.randint(0, 1 << bits, (OUTPUTS, 3), dtype=torch.uint8)
    packed = words(zero.t(), bits)
    for each in (parameter(packed, 0), parameter(packed.t().contiguous(), 1)):
        assert torch.equal(repacking.zero_points(each, bits), zero)


def test_scales() -> None:
    """`[outputs, groups]`, contiguous."""
    scale = torch.rand(OUTPUTS, 3)
    for each in (parameter(scale, 1), parameter(scale.t().contiguous(), 0)):
        made = repacking.scales(each)
        assert torch.equal(made, scale)
        assert made.is_contiguous()


def test_awq() -> None:
    """Words along outputs, interleaved."""
    given = codes(4)
    packed = words(given.t(), 4, AWQ_ORDER)
    assert torch.equal(repacking.awq_codes(packed), given.t())
    assert torch.equal(unpack(repacking.awq_weight(packed), 4), given)


@pytest.mark.parametrize("bits", [4, 8])
def test_signed_codes(bits: int) -> None:
    """In a byte each, whatever their width."""
    half = 1 << (bits - 1)
    signed = torch.randint(-half, half, (OUTPUTS, INPUTS), dtype=torch.int8)
    made = unpack(repacking.int8_weight(signed, bits), bits)
    assert torch.equal(made.int() - half, signed.int())

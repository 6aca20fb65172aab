"""Rounding: what it gives, how good it is, and what it takes."""

from __future__ import annotations

import pytest
import torch

from vllm_npu_quantization import rounding
from vllm_npu_quantization.rounding import round_weight
from vllm_npu_runtime.ops.packing import dequantize, unpack

W = torch.randn(48, 256)


def error_of(weight: torch.Tensor, rounded: rounding.Rounded, bits: int) -> float:
    """The squared error, by what the packed weights stand for."""
    dense = dequantize(rounded.weight, rounded.scale, None, bits)
    return float((dense - weight.float()).square().sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("bits", "group"), [(4, 64), (4, 128), (4, -1), (8, -1), (8, 32)])
def test_what_it_reports_is_so(bits: int, group: int, dtype: torch.dtype) -> None:
    """Error and norm, with scales rounded as they are kept."""
    weight = W.to(dtype)
    rounded = round_weight(weight, bits, group)
    assert rounded.scale.dtype is dtype
    assert rounded.scale.shape == (48, 1 if group == -1 else 256 // group)
    assert rounded.squared_error == pytest.approx(error_of(weight, rounded, bits), rel=1e-3)
    assert rounded.squared_norm == pytest.approx(float(weight.float().square().sum()), rel=1e-4)
    assert rounded.relative_error < {4: 0.15, 8: 0.012}[bits]


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_on_the_grid_stay_exact(bits: int) -> None:
    """What was quantized before, with its largest code in every group, loses nothing."""
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (8, 128))
    codes[:, ::32] = -half
    scale = 2.0 ** -torch.randint(3, 6, (8, 4)).float()
    weight = codes * scale.repeat_interleave(32, 1)
    # The whole range is that of a code half a step further, which is not among the fractions.
    rounded = round_weight(weight, bits, 32)
    assert rounded.relative_error < (0.06 if bits == 4 else 0.004)


def test_clipping_lowers_the_error() -> None:
    """Against the whole range of each group."""
    weight = W * torch.where(torch.rand_like(W) < 0.01, 6.0, 1.0)
    rounded = round_weight(weight, 4, 128)
    groups = weight.reshape(48, 2, 128)
    whole = groups.abs().amax(-1, keepdim=True) / 7.5
    plain = ((groups / whole).round().clamp(-8, 7) * whole - groups).square().sum()
    assert rounded.squared_error < 0.95 * float(plain)
    assert rounded.clipped > 0


def test_zeros() -> None:
    """A group without any other weight stays zero, and divides by nothing."""
    weight = W.clone()
    weight[3] = 0
    rounded = round_weight(weight, 4, 64)
    assert bool(torch.isfinite(rounded.scale).all())
    assert bool((unpack(rounded.weight, 4)[3] == 8).all())
    assert round_weight(torch.zeros(2, 64), 8, -1).relative_error == 0.0


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are worked on at a time."""
    whole = round_weight(W, 4, 64)
    monkeypatch.setattr(rounding, "CHUNK", 5 * 256)
    parts = round_weight(W, 4, 64)
    assert torch.equal(whole.weight, parts.weight)
    assert torch.equal(whole.scale, parts.scale)
    assert whole.clipped == parts.clipped

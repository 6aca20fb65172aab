"""Packed weights: their layout, what they stand for, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_npu_runtime.errors import BadShapeError
from vllm_npu_runtime.ops import wna16_linear
from vllm_npu_runtime.ops.packing import (
    SCALE_DTYPES,
    WEIGHT_FORMATS,
    dequantize,
    format_name,
    pack,
    unpack,
)

X = torch.randn(3, 64)
WEIGHT = torch.randint(0, 256, (4, 32), dtype=torch.uint8)
SCALE = torch.rand(4, 2)


def test_layout() -> None:
    """Two neighbouring inputs share a byte, the first in its low half; rows are outputs."""
    codes = torch.tensor([[1, 2, 3, 15], [8, 0, 9, 10]], dtype=torch.uint8)
    assert pack(codes, 4).tolist() == [[0x21, 0xF3], [0x08, 0xA9]]
    assert torch.equal(pack(codes, 8), codes)
    for bits in (4, 8):
        assert torch.equal(unpack(pack(codes, bits), bits), codes)
        assert pack(torch.zeros(6, 4, dtype=torch.uint8).t(), bits).is_contiguous()


def test_int32_words_read_as_bytes_are_this_layout() -> None:
    """As compressed-tensors packs: input k of a word in its bits 4 k and following."""
    word = sum(code << (4 * place) for place, code in enumerate([1, 2, 3, 4, 5, 6, 7, 0]))
    octets = torch.tensor([[word]], dtype=torch.int32).view(torch.uint8)
    assert unpack(octets, 4).tolist() == [[1, 2, 3, 4, 5, 6, 7, 0]]


def test_formats() -> None:
    """Their names are vLLM's scalar types."""
    assert {name: (f.bits, f.zero_point) for name, f in WEIGHT_FORMATS.items()} == {
        "uint4b8": (4, 8),
        "uint8b128": (8, 128),
        "uint4": (4, None),
        "uint8": (8, None),
    }
    assert format_name(4, False) == "uint4b8"
    assert format_name(8, True) == "uint8"
    with pytest.raises(BadShapeError, match="not 3"):
        format_name(3, False)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("has_zero_point", [False, True])
def test_dequantize_element_by_element(bits: int, has_zero_point: bool) -> None:
    """(code - zero point) * scale of the input's group."""
    codes = torch.randint(0, 1 << bits, (3, 64), dtype=torch.uint8)
    scale = torch.rand(3, 2)
    zero = torch.randint(0, 1 << bits, (3, 2), dtype=torch.uint8) if has_zero_point else None
    dense = dequantize(pack(codes, bits), scale, zero, bits)
    for row in range(3):
        for column in range(64):
            group = column // 32
            offset = (1 << (bits - 1)) if zero is None else int(zero[row, group])
            wanted = (int(codes[row, column]) - offset) * float(scale[row, group])
            assert float(dense[row, column]) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("scale_dtype", SCALE_DTYPES)
@pytest.mark.parametrize("dtype", SCALE_DTYPES)
def test_result_has_the_dtype_of_the_activations(
    dtype: torch.dtype, scale_dtype: torch.dtype
) -> None:
    """Whatever the scales are; leading dimensions stay."""
    x = torch.randn(2, 3, 64).to(dtype)
    out = torch.ops.vllm_npu.wna16_linear(x, WEIGHT, SCALE.to(scale_dtype))
    assert (out.shape, out.dtype) == ((2, 3, 4), dtype)
    dense = dequantize(WEIGHT, SCALE.to(scale_dtype), None, 4)
    error = {torch.float32: 1e-5}.get(dtype, 5e-2)
    torch.testing.assert_close(out.float(), x.float() @ dense.t(), rtol=error, atol=error * 4)


@pytest.mark.parametrize("zero_point", [None, torch.full((4, 2), 8, dtype=torch.uint8)])
@pytest.mark.parametrize("bias", [None, torch.randn(4)])
def test_operator_is_well_formed(
    zero_point: torch.Tensor | None, bias: torch.Tensor | None
) -> None:
    """Schema, fake version and dispatch hold what they say; 8 is the default zero point."""
    arguments = (X, WEIGHT, SCALE, zero_point, bias, 4)
    torch.library.opcheck(torch.ops.vllm_npu.wna16_linear.default, arguments)
    plain = torch.ops.vllm_npu.wna16_linear(X, WEIGHT, SCALE, None, bias, 4)
    assert torch.equal(torch.ops.vllm_npu.wna16_linear(*arguments), plain)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 3}, "4 or 8 bits, not 3"),
        ({"bits": 8}, r"torch.uint8 \[4, 32\]"),
        ({"weight": WEIGHT.int()}, r"torch.int32 \[4, 32\]"),
        ({"scale": SCALE.int()}, "Scales are torch.int32"),
        ({"scale": SCALE[:3]}, r"floating \[4, groups\]"),
        ({"scale": torch.rand(4, 4)}, "a group has 32, 64, 128 inputs"),
        ({"scale": torch.rand(4, 3)}, "3 scales for 64 inputs"),
        ({"zero_point": torch.zeros(4, 2)}, "Zero points are torch.float32"),
        ({"zero_point": torch.zeros(4, 1, dtype=torch.uint8)}, "as many as scales"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_tensors_that_do_not_belong_together(changes: dict[str, Any], words: str) -> None:
    """Refused by the operator, and by its decomposition."""
    given = {"x": X, "weight": WEIGHT, "scale": SCALE, "zero_point": None, "bias": None, "bits": 4}
    arguments = list((given | changes).values())
    for call in (torch.ops.vllm_npu.wna16_linear, wna16_linear.decomposition):
        with pytest.raises(BadShapeError, match=words):
            call(*arguments)

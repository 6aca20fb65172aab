"""Packed weights stay packed, in OpenVINO's product with compressed weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("openvino")

from vllm_npu_runtime.drivers.base import CompileOptions
from vllm_npu_runtime.openvino.convert import convert, with_weights
from vllm_npu_runtime.openvino.functional import functional
from vllm_npu_runtime.ops.packing import dequantize
from vllm_npu_runtime.program import Program

from .packed import INPUTS, packed_product, packed_weights
from .programs import DRIVER, kinds, load, make

X = torch.randn(3, INPUTS)


def _program(x: torch.Tensor, weights: dict[str, torch.Tensor], bits: int = 4) -> Program:
    return make(lambda x, **w: packed_product(x, bits, **w), x=x, **weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("group", [64, 128, -1])
@pytest.mark.parametrize("bits", [4, 8])
def test_one_product_takes_the_weights_packed(
    bits: int, group: int, zero_point: bool, dtype: torch.dtype
) -> None:
    """What is compiled is a single product whose weights have 4 or 8 bits: nothing is unpacked."""
    weights = packed_weights(bits, group, zero_point, dtype)
    executable = load(_program(X.to(dtype), weights, bits), {"x": X.to(dtype)})
    found = [each for each in kinds(executable) if each not in ("Input", "Const", "Output")]
    # Activations are widened where they are computed with in float32.
    widened = DRIVER.capabilities("CPU").computes_in(dtype) is not dtype
    around = ("Convert", "Reorder", "Subgraph") if widened else ()
    assert [each for each in found if each not in around] == ["FullyConnected"]
    product = next(
        node
        for node in executable.compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    )
    kind = product.input_value(1).get_element_type().get_type_name()
    assert kind == f"u{bits}"


def test_activations_are_not_rounded() -> None:
    """Left to itself, the plugin would round float32 activations to eight bits."""
    weights = packed_weights()
    out = load(_program(X, weights), {"x": X}).run()[0]
    dense = dequantize(weights["w"], weights["w_scale"], None, 4)
    torch.testing.assert_close(out, X @ dense.t(), rtol=1e-5, atol=1e-5)


def test_weights_are_not_copied_into_the_model() -> None:
    """Their constants lie where the parameters do."""
    weights = packed_weights(zero_point=True)
    model = with_weights(convert(functional(_program(X, weights))), weights)
    found = {each.get_friendly_name(): each for each in model.get_ops()}
    for name, tensor in weights.items():
        assert found[name].get_tensor_view().data.ctypes.data == tensor.data_ptr()


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_that_are_not_contiguous(bits: int) -> None:
    """They are copied, and outlive what they were copied from."""
    weights = packed_weights(bits, zero_point=True)
    turned = {name: tensor.t().contiguous().t() for name, tensor in weights.items()}
    executable = load(_program(X, turned, bits), {"x": X})
    wanted = packed_product(X, bits, **weights)
    torch.testing.assert_close(executable.run()[0], wanted, rtol=1e-4, atol=1e-4)


def test_columns_are_products_of_their_own() -> None:
    """As of a layer's gate and up: rows of weights, scales and zero points."""
    weights = packed_weights(zero_point=True)

    def gated(x: torch.Tensor, **w: torch.Tensor) -> torch.Tensor:
        y = packed_product(x, **w)
        return torch.nn.functional.silu(y[..., :32]) * y[..., 32:]

    program = make(gated, most=8, x=X, **weights)
    parts = {f"{name}[{rows}]" for name in weights for rows in ("0:32", "32:64")}
    assert set(functional(program).inputs) == {"x"} | parts
    executable = load(program, {"x": X})
    torch.testing.assert_close(executable.run()[0], gated(X, **weights), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_saved_without_weights(bits: int, tmp_path: Path) -> None:
    """The files hold the graph; loaded, it takes the weights that the program has."""
    weights, others = packed_weights(bits), packed_weights(bits)
    program = _program(X, weights, bits)
    executable = load(program, {"x": X})
    assert DRIVER.save(executable, tmp_path)
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) < weights["w"].nbytes * 2
    assert weights["w"].numpy().tobytes() not in (tmp_path / "model.bin").read_bytes()
    loaded = DRIVER.load(
        Program(program.name, program.graph, program.inputs, program.outputs, others),
        "CPU",
        tmp_path,
        CompileOptions(),
    )
    loaded.bind({"x": X})
    wanted = packed_product(X, bits, **others)
    torch.testing.assert_close(loaded.run()[0], wanted, rtol=1e-4, atol=1e-4)

"""Models in bfloat16 and float16, as float32 ones around small weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

ov = pytest.importorskip("openvino")

import openvino.opset15 as ops

from vllm_npu_runtime.openvino.arithmetic import in_float32
from vllm_npu_runtime.openvino.convert import convert
from vllm_npu_runtime.openvino.functional import functional

from .programs import load, make

ERROR = {torch.bfloat16: 2e-2, torch.float16: 2e-3}
SMALL = [ov.Type.bf16, ov.Type.f16]


def _model(kind: ov.Type) -> ov.Model:
    """Rows times a weight, and how many tokens there are, which is no number to change."""
    x, w = ops.parameter([-1, 8], kind, name="x"), ops.parameter([8, 8], kind, name="w")
    ids = ops.parameter([-1], ov.Type.i64, name="ids")
    results = {"y": ops.tanh(ops.matmul(x, w, False, False)), "twice": ops.add(ids, ids)}
    for port, node in {**results, "x": x, "w": w, "ids": ids}.items():
        node.output(0).get_tensor().set_names({port})
    return ov.Model(list(results.values()), [x, w, ids], "m")


def _ports(model: ov.Model) -> list[tuple[set[str], str]]:
    ports = [*model.inputs, *model.outputs]
    return [(port.get_names(), port.get_element_type().get_type_name()) for port in ports]


def _types(model: ov.Model) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


@pytest.mark.parametrize("kind", SMALL, ids=str)
def test_ports_stay_and_the_inside_is_wide(kind: ov.Type) -> None:
    """Names and types are those that the program has."""
    model = _model(kind)
    before = _ports(model)
    in_float32(model)
    assert _ports(model) == before
    product, tanh = (
        next(node for node in model.get_ops() if node.get_type_name() == wanted)
        for wanted in ("MatMul", "Tanh")
    )
    assert product.get_output_element_type(0) == tanh.get_output_element_type(0) == ov.Type.f32


@pytest.mark.parametrize("kind", SMALL, ids=str)
def test_conversions_of_parameters_are_told(kind: ov.Type) -> None:
    """Of small ones only, each once."""
    model = _model(kind)
    found = in_float32(model)
    assert [node.get_type_name() for node in found] == ["Convert", "Convert"]
    read = {node.input_value(0).get_node().get_friendly_name() for node in found}
    assert read == {"x", "w"}
    assert all(node.get_output_element_type(0) == ov.Type.f32 for node in found)


def test_float32_model_comes_back_unchanged() -> None:
    """Nothing is put in."""
    model = _model(ov.Type.f32)
    before = _ports(model), _types(model)
    assert in_float32(model) == []
    assert (_ports(model), _types(model)) == before
    assert "Convert" not in _types(model)


@pytest.mark.parametrize("tied", [False, True], ids=["alone", "tied to the head"])
def test_embeddings_are_converted_after_gathering(tied: bool) -> None:
    """A whole table is converted for a product alone."""
    table = ops.parameter([100, 8], ov.Type.bf16, name="table")
    ids = ops.parameter([-1], ov.Type.i64, name="ids")
    rows = ops.gather(table, ids, ops.constant(np.int64(0)))
    result = ops.matmul(rows, table, False, True) if tied else ops.tanh(rows)
    model = ov.Model([result], [table, ids], "m")
    found = in_float32(model)
    gather = next(node for node in model.get_ops() if node.get_type_name() == "Gather")
    assert gather.get_output_element_type(0) == ov.Type.bf16
    (reader,) = gather.output(0).get_target_inputs()
    assert reader.get_node().get_type_name() == "Convert"
    users = {each.get_node().get_type_name() for each in table.output(0).get_target_inputs()}
    assert users == ({"Gather", "Convert"} if tied else {"Gather"})
    assert [node.input_value(0).get_node().get_friendly_name() for node in found] == (
        ["table"] if tied else []
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda ids, w: F.embedding(ids, w).tanh(),
        lambda ids, w: F.embedding(ids, w),
        lambda ids, w: F.embedding(ids, w).float().tanh().to(w.dtype),
    ],
    ids=["computed", "gathered", "converted"],
)
def test_results_of_a_program_keep_their_names(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    """Those that the frontend gives them."""
    program = make(function, ids=torch.tensor([1, 2]), w=torch.randn(9, 8).bfloat16())
    assert convert(functional(program)).outputs[0].get_names()


def _normed(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) @ w.t()


PROGRAMS = {
    "product": lambda x, w: (x @ w.t()).tanh(),
    "computed in float32": _normed,
    "float32 result": lambda x, w: (x @ w.t()).float(),
    "softmax": lambda x, w: (x @ w.t()).softmax(-1),
}


@pytest.mark.parametrize("function", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("dtype", ERROR, ids=str)
def test_values_are_those_of_the_dtype(
    dtype: torch.dtype, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    """Within its roundings."""
    x, w = torch.randn(5, 64).to(dtype), (torch.randn(32, 64) / 8).to(dtype)
    out, expected = load(make(function, x=x, w=w), {"x": x}).run()[0], function(x, w)
    torch.testing.assert_close(out, expected, rtol=ERROR[dtype], atol=ERROR[dtype])


@pytest.mark.parametrize("dtype", ERROR, ids=str)
def test_gathered_values(dtype: torch.dtype) -> None:
    """They are copied, so they are exact."""
    ids, w = torch.tensor([1, 5, 2, 99]), torch.randn(100, 16).to(dtype)
    program = make(lambda ids, w: F.embedding(ids, w), ids=ids, w=w)
    assert torch.equal(load(program, {"ids": ids}).run()[0], w[ids])


CONSTANTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "factor": lambda x: x * 0.3,
    "sum": lambda x: x + 1,
    "row": lambda x: x + torch.arange(16, dtype=x.dtype),
    "infinity": lambda x: x.masked_fill(x > 0, -torch.inf).softmax(-1),
}


@pytest.mark.parametrize("function", CONSTANTS.values(), ids=CONSTANTS)
@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        torch.float16,
    ],
    ids=str,
)
def test_constants_keep_their_values(
    dtype: torch.dtype, function: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Those that the graph has in the small type."""
    x = torch.randn(5, 16).to(dtype)
    out = load(make(function, x=x), {"x": x}).run()[0]
    torch.testing.assert_close(out, function(x), rtol=ERROR[dtype], atol=ERROR[dtype])

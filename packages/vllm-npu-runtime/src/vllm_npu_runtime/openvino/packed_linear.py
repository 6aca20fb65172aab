"""``vllm_npu::wna16_linear`` as OpenVINO's product with compressed weights.

Packed weights stay packed: they become constants of type u4 or u8 over the model's own memory,
with a zero point and a scale that the plugin folds into its matrix product. While a model is
converted they are parameters, of shape `[outputs, groups, group size]`.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import torch

from vllm_npu_runtime.openvino.tensors import raw
from vllm_npu_runtime.ops import wna16_linear  # noqa: F401  (defines the operator)
from vllm_npu_runtime.program import operator_name

torch.library.define(
    "vllm_npu_openvino::packed_linear",
    "(Tensor x, Tensor weight, Tensor scale, int bits) -> Tensor",
)
torch.library.define(
    "vllm_npu_openvino::packed_linear_zero_point",
    "(Tensor x, Tensor weight, Tensor scale, Tensor zero_point, int bits) -> Tensor",
)

_PREFIX = "vllm_npu_openvino.packed_linear"
_TYPES = {4: ov.Type.u4, 8: ov.Type.u8}


def _shape_only(x: torch.Tensor, weight: torch.Tensor, *_operands: object) -> torch.Tensor:
    return x.new_empty([*x.shape[:-1], weight.shape[0]])


torch.library.register_fake("vllm_npu_openvino::packed_linear", _shape_only)
torch.library.register_fake("vllm_npu_openvino::packed_linear_zero_point", _shape_only)


def use_packed_linear(graph: torch.fx.Graph, weights: set[torch.fx.Node]) -> None:
    """Put the operators above where packed operands are weights; others are left to decompose.

    Args:
        graph: rewritten in place.
        weights: its placeholders that are bound to weights, and so will be constants.
    """
    operators = torch.ops.vllm_npu_openvino
    for node in graph.find_nodes(
        op="call_function", target=torch.ops.vllm_npu.wna16_linear.default
    ):
        given = {each.name: each.default_value for each in node.target._schema.arguments}
        given |= dict(zip(given, node.args, strict=False)) | node.kwargs
        operator = operators.packed_linear
        packed = [given["weight"], given["scale"]]
        if given["zero_point"] is not None:
            operator = operators.packed_linear_zero_point
            packed.append(given["zero_point"])
        if not weights.issuperset(packed):
            continue
        with graph.inserting_before(node):
            own = graph.call_function(operator.default, (given["x"], *packed, given["bits"]))
            if given["bias"] is not None:
                own = graph.call_function(torch.ops.aten.add.Tensor, (own, given["bias"]))
        node.replace_all_uses_with(own)
        graph.erase_node(node)


def packed_operands(node: torch.fx.Node) -> tuple[torch.fx.Node, ...]:
    """Weight, scale and zero points of a call of these operators, each with a row per output.

    Empty for any other node.
    """
    if node.op != "call_function" or not operator_name(node).startswith(_PREFIX):
        return ()
    return node.args[1:-1]


def _symmetric(context: ov.frontend.NodeContext) -> list[ov.Output]:
    x, weight, scale = (context.get_input(index) for index in range(3))
    bits = context.get_values_from_const_input(3)
    return [_product(x, weight, scale, None, bits).output(0)]


def _zero_point(context: ov.frontend.NodeContext) -> list[ov.Output]:
    x, weight, scale, zero_point = (context.get_input(index) for index in range(4))
    bits = context.get_values_from_const_input(4)
    return [_product(x, weight, scale, zero_point, bits).output(0)]


TRANSLATORS = {f"{_PREFIX}.default": _symmetric, f"{_PREFIX}_zero_point.default": _zero_point}
"""Decompression that plugins recognise: conversion extensions of OpenVINO's frontend."""


def _product(
    x: ov.Output, weight: ov.Output, scale: ov.Output, zero_point: ov.Output | None, bits: int
) -> ov.Node:
    kind = x.get_element_type().get_type_name()
    rows, groups = (scale.partial_shape[axis].get_length() for axis in (0, 1))
    columns = weight.partial_shape[1].get_length() * 8 // bits
    _become(weight, _TYPES[bits], [rows, groups, columns // groups])
    _become(scale, scale.get_element_type(), [rows, groups, 1])
    if zero_point is None:
        zero = ops.constant(np.full((1, 1, 1), 1 << (bits - 1), np.uint8))
    else:
        _become(zero_point, ov.Type.u8, [rows, groups, 1])
        zero = zero_point
    centred = ops.subtract(ops.convert(weight, kind), ops.convert(zero, kind))
    dense = ops.multiply(centred, ops.convert(scale, kind))
    flat = ops.reshape(dense, np.array([rows, columns], np.int64), False)
    return ops.matmul(x, flat, False, True)


def _become(tensor: ov.Output, kind: ov.Type, shape: list[int]) -> None:
    """Let a parameter have another type and shape over the same bytes."""
    parameter = tensor.get_node()
    parameter.set_element_type(kind)
    parameter.set_partial_shape(ov.PartialShape(shape))
    parameter.validate_and_infer_types()


def constant(weight: torch.Tensor, kind: ov.Type, shape: list[int]) -> ov.Node:
    """A weight's memory as a constant of a packed type; a copy only if it isn't contiguous."""
    octets = weight.reshape(-1)
    return ov.op.Constant(raw(octets, shape, kind), shared_memory=weight.is_contiguous())

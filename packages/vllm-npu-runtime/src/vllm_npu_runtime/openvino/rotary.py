"""Rotary position embeddings in the form that OpenVINO runs as one operation.

In a graph they are a dozen small ones, which take longer than their arithmetic when few tokens
are decoded. OpenVINO fuses them if the tensor has four dimensions and is split in two by
VariadicSplit (its pass `RoPEFusion`); so a match is replaced by an operator that converts so.
"""

from __future__ import annotations

import operator

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import torch

OPERATOR = "vllm_npu_openvino.rotary.default"

torch.library.define("vllm_npu_openvino::rotary", "(Tensor x, Tensor cos, Tensor sin) -> Tensor")


@torch.library.register_fake("vllm_npu_openvino::rotary")
def _(x: torch.Tensor, _cos: torch.Tensor, _sin: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)


def fuse_rotary(module: torch.fx.GraphModule) -> None:
    """Replace rotations by halves (RoFormer, arXiv:2104.09864, as GPT-NeoX orders it).

    With x = [x1, x2], split in the middle of the last axis:
    ``cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin])``.
    """
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=_aten.cat.default):
        found = _match(node)
        if found is None:
            continue
        x, cos, sin = found
        with graph.inserting_before(node):
            rotary = graph.call_function(torch.ops.vllm_npu_openvino.rotary.default, (x, cos, sin))
        rotary.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(rotary)
    graph.eliminate_dead_code()
    module.recompile()


def translate(context: ov.frontend.NodeContext) -> list[ov.Output]:
    """Rotate `[T, H, D]` by `[T, 1, D / 2]`; a conversion extension of OpenVINO's frontend."""
    x, cos, sin = (_with_axis(context.get_input(index)) for index in range(3))
    half = context.get_input(0).partial_shape[2].get_length() // 2
    parts = ops.variadic_split(x, _longs(-1), _longs([half, half]))
    first, second = parts.output(0), parts.output(1)
    rotated = ops.concat(
        [
            ops.subtract(ops.multiply(first, cos), ops.multiply(second, sin)),
            ops.add(ops.multiply(second, cos), ops.multiply(first, sin)),
        ],
        -1,
    )
    return [ops.squeeze(rotated, _longs([2])).output(0)]


_aten = torch.ops.aten


def _match(cat: torch.fx.Node) -> tuple[torch.fx.Node, torch.fx.Node, torch.fx.Node] | None:
    """x, cos and sin, if `cat` ends such a rotation of a tensor with three dimensions."""
    parts, *axis = cat.args
    rank = cat.meta["val"].dim()
    if len(parts) != 2 or rank != 3 or axis not in ([-1], [rank - 1]):
        return None
    lower, upper = parts
    if not (_is(lower, _aten.sub.Tensor) and _is(upper, _aten.add.Tensor)):
        return None
    products = [*lower.args[:2], *upper.args[:2]]
    if not all(_is(each, _aten.mul.Tensor) for each in products) or lower.kwargs or upper.kwargs:
        return None
    (x1, cos), (x2, sin), *rest = (each.args for each in products)
    if [tuple(each) for each in rest] != [(x2, cos), (x1, sin)]:
        return None
    x = _halves(x1, x2)
    return (x, cos, sin) if _fits(x, cos, sin, cat) else None


def _fits(*nodes: object) -> bool:
    """Whether x, cos, sin and the result are `[T, H, D]`, twice `[T, 1, D / 2]` and as x."""
    values = [node.meta["val"] for node in nodes if isinstance(node, torch.fx.Node)]
    if len(values) < len(nodes):
        return False
    x, cos, sin, result = values
    tokens, _, size = result.shape
    angles = (tokens, 1, size // 2)
    # As text, for a comparison of sizes that vary would be an assumption about them.
    return (
        str(x.shape) == str(result.shape)
        and str(cos.shape) == str(sin.shape) == str(torch.Size(angles))
        and x.dtype == cos.dtype == sin.dtype
    )


def _halves(first: torch.fx.Node, second: torch.fx.Node) -> torch.fx.Node | None:
    """The tensor of which these are the halves along the last axis."""
    if not all(_is(each, operator.getitem) for each in (first, second)):
        return None
    (split, one), (other, two) = first.args, second.args
    if split is not other or (one, two) != (0, 1) or not _is(split, _aten.split.Tensor):
        return None
    x, size, *axis = split.args
    shape = x.meta["val"].shape
    whole = axis in ([-1], [len(shape) - 1]) and 2 * size == shape[-1]
    return x if whole else None


def _is(node: object, target: object) -> bool:
    return isinstance(node, torch.fx.Node) and node.target is target


def _with_axis(tensor: ov.Output) -> ov.Node:
    return ops.unsqueeze(tensor, _longs([2]))


def _longs(values: object) -> ov.Node:
    return ops.constant(np.array(values, dtype=np.int64))

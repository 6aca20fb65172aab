"""Gated feed-forward layers in the form that OpenVINO's CPU plugin runs as one operation.

The plugin fuses the three products if tensors have three dimensions and weights are bfloat16 or
float16 constants behind a conversion (its pass `MLPFusion`). Reading the weights is most of what
decoding does, and the fused operation reads them faster.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import torch

BLOCK = 32
"""Rows and columns that the plugin's kernel works on at once. It reads past the end of a weight
if the inner size is less than two of these (2026.4.1: a segmentation fault)."""

THREADS = 2
"""The kernel gives a block to a pair of threads; with one it divides by zero (2026.4.1)."""

OPERATOR = "vllm_npu_openvino.gated_mlp.default"

torch.library.define(
    "vllm_npu_openvino::gated_mlp", "(Tensor x, Tensor gate, Tensor up, Tensor down) -> Tensor"
)


@torch.library.register_fake("vllm_npu_openvino::gated_mlp")
def _(x: torch.Tensor, _gate: torch.Tensor, _up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], down.shape[0])


def fuse_gated_mlp(module: torch.fx.GraphModule) -> None:
    """Replace ``(silu(x @ gate.t()) * (x @ up.t())) @ down.t()`` (SwiGLU, arXiv:2002.05202)."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=_aten.mm.default):
        found = _match(node)
        if found is None:
            continue
        with graph.inserting_before(node):
            fused = graph.call_function(torch.ops.vllm_npu_openvino.gated_mlp.default, found)
        fused.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(fused)
    graph.eliminate_dead_code()
    module.recompile()


def translate(context: ov.frontend.NodeContext) -> list[ov.Output]:
    """`[T, D]` to `[T, D]`; a conversion extension of OpenVINO's frontend."""
    x, gate, up, down = (context.get_input(index) for index in range(4))
    rows = ops.unsqueeze(x, _longs([1]))
    opened = ops.matmul(rows, gate, False, True)
    swish = ops.multiply(opened, ops.sigmoid(opened))  # Swish itself wants a float32 factor
    gated = ops.multiply(swish, ops.matmul(rows, up, False, True))
    return [ops.squeeze(ops.matmul(gated, down, False, True), _longs([1])).output(0)]


_aten = torch.ops.aten


def _match(product: torch.fx.Node) -> tuple[torch.fx.Node, ...] | None:
    """x, gate, up and down, if `product` ends such a layer and nobody else sees its inside."""
    gated, down = product.args[0], _transposed(product.args[1])
    if down is None or not _alone(gated, _aten.mul.Tensor):
        return None
    activated, upper = gated.args
    if not (_alone(activated, _aten.silu.default) and _alone(upper, _aten.mm.default)):
        return None
    (lower,) = activated.args
    if not _alone(lower, _aten.mm.default) or lower.args[0] is not upper.args[0]:
        return None
    gate, up = _transposed(lower.args[1]), _transposed(upper.args[1])
    if gate is None or up is None:
        return None
    inner, outer = gate.meta["val"].shape
    if inner % BLOCK or outer % BLOCK or inner < 2 * BLOCK:
        return None
    return lower.args[0], gate, up, down


def _transposed(node: object) -> torch.fx.Node | None:
    """The graph's input that a node transposes."""
    if not isinstance(node, torch.fx.Node) or node.target is not _aten.t.default:
        return None
    (whole,) = node.args
    return whole if whole.op == "placeholder" else None


def _alone(node: object, target: object) -> bool:
    return isinstance(node, torch.fx.Node) and node.target is target and len(node.users) == 1


def _longs(values: object) -> ov.Node:
    return ops.constant(np.array(values, dtype=np.int64))

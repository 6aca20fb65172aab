"""Products that are sliced into columns, as several products.

vLLM keeps the weights of a layer's gate and up in one matrix and slices the product. As products of
their own nothing of them is copied, and what follows is computed in place. A part of a weight is
rows of the same memory, so nothing is copied for it either.

Query, key and value stay one product: one large product reads weights faster than three.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx.passes.shape_prop import _extract_tensor_metadata

from vllm_npu_runtime.openvino.packed_linear import packed_operands

_aten = torch.ops.aten
_PART = re.compile(r"(?P<name>.*)\[(?P<begin>\d+):(?P<end>\d+)\]")


def part_name(name: str, begin: int, end: int) -> str:
    """How an input is called that is rows of a weight."""
    return f"{name}[{begin}:{end}]"


def whole_name(name: str) -> str:
    """The weight that an input is, or is rows of."""
    found = _PART.fullmatch(name)
    return found["name"] if found else name


def part_of(name: str, weight: torch.Tensor) -> torch.Tensor:
    """The rows of `weight` that an input called `name` is; all of them for its plain name."""
    found = _PART.fullmatch(name)
    return weight[int(found["begin"]) : int(found["end"])] if found else weight


@dataclass(frozen=True)
class _Cut:
    """Columns that somebody takes of a product."""

    taken: torch.fx.Node
    begin: int
    end: int


def split_products(
    module: torch.fx.GraphModule, inputs: Sequence[str], weights: set[str]
) -> tuple[str, ...]:
    """Rewrite a graph's products; returns its inputs' names, parts of weights included.

    Args:
        module: rewritten in place.
        inputs: names of its placeholders.
        weights: those of them that are weights.
    """
    graph = module.graph
    placeholders = graph.find_nodes(op="placeholder")
    names = dict(zip(placeholders, inputs, strict=True))
    held = {node for node, name in names.items() if name in weights}
    for product in list(graph.nodes):
        operands = _weights(product, held)
        if not operands:
            continue
        for cut in _cuts(product) or ():
            with graph.inserting_before(product):
                parts = [_part(graph, weight, cut, names) for weight in operands]
                own = _product(graph, product, parts)
            own.meta["val"] = cut.taken.meta["val"]
            cut.taken.replace_all_uses_with(own)
    graph.eliminate_dead_code()
    for node in list(names):
        if not node.users and node in held:
            graph.erase_node(node)
            del names[node]
    module.recompile()
    return tuple(names[node] for node in graph.find_nodes(op="placeholder"))


def _weights(product: torch.fx.Node, held: set[torch.fx.Node]) -> tuple[torch.fx.Node, ...]:
    """The weight W of ``x @ W.t()``; of a packed one also what belongs to each of its rows."""
    operands = packed_operands(product)
    if _is(product, _aten.mm.default) and _is(product.args[1], _aten.t.default):
        operands = (product.args[1].args[0],)
    return operands if held.issuperset(operands) else ()


def _product(
    graph: torch.fx.Graph, product: torch.fx.Node, parts: Sequence[torch.fx.Node]
) -> torch.fx.Node:
    """The product with rows of its weights."""
    if packed_operands(product):
        arguments = (product.args[0], *parts, product.args[-1])
        return graph.call_function(product.target, arguments)
    transposed = graph.call_function(_aten.t.default, tuple(parts))
    return graph.call_function(_aten.mm.default, (product.args[0], transposed))


def _cuts(product: torch.fx.Node) -> list[_Cut] | None:
    """Every column range that is taken of a product; None if it is used in another way."""
    width = product.meta["val"].shape[-1]
    last = product.meta["val"].dim() - 1
    cuts: list[_Cut] = []
    for user in product.users:
        if _is(user, _aten.slice.Tensor):
            given = dict(zip(("x", "dim", "start", "end", "step"), user.args, strict=False))
            begin, end = given.get("start") or 0, given.get("end", width)
            if given.get("dim", 0) not in (last, -1) or given.get("step", 1) != 1:
                return None
            if not isinstance(begin, int) or not isinstance(end, int) or begin < 0 or end < 0:
                return None
            cuts.append(_Cut(user, begin, min(end, width)))
        else:
            return None
    return cuts if any(cut.end - cut.begin < width for cut in cuts) else None


def _part(
    graph: torch.fx.Graph,
    weight: torch.fx.Node,
    cut: _Cut,
    names: dict[torch.fx.Node, str],
) -> torch.fx.Node:
    """An input that is rows of a weight; one for all who take the same rows."""
    name = part_name(names[weight], cut.begin, cut.end)
    for node, known in names.items():
        if known == name:
            return node
    last = graph.find_nodes(op="placeholder")[-1]
    with graph.inserting_after(last):
        node = graph.placeholder(f"{weight.name}_{cut.begin}_{cut.end}")
    node.meta["val"] = weight.meta["val"][cut.begin : cut.end]
    node.meta["tensor_meta"] = _extract_tensor_metadata(node.meta["val"])  # OpenVINO reads this
    names[node] = name
    return node


def _is(node: object, target: object) -> bool:
    return isinstance(node, torch.fx.Node) and node.target is target

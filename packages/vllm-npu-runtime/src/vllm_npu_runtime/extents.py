"""Extents that vary from run to run: what a trace assumed of them, and where the graph reads them.

A trace works with symbols for such extents. Whatever Python asks about a symbol while it runs,
as in ``if tokens > 128``, is answered for the example, and noted as an assumption.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from vllm_npu_runtime.errors import CaptureError


@dataclass(frozen=True)
class Varying:
    """An extent that varies.

    Attributes:
        name: of the quantity; dimensions with the same name have the same extent in a run.
        most: it is 1 … `most`.
    """

    name: str
    most: int


def check_assumptions(
    program: str, shapes: ShapeEnv, extents: Iterable[tuple[int | torch.SymInt, Varying]]
) -> None:
    """Refuse a trace that holds for some values only.

    Args:
        program: its name, for errors.
        shapes: what the trace noted.
        extents: for every varying dimension, the symbol that it was traced with.

    Raises:
        CaptureError: the trace fixed an extent, or assumed what isn't so for every value.
    """
    quantities: dict[sympy.Symbol, Varying] = {}
    for extent, varying in extents:
        if isinstance(extent, int):
            raise CaptureError(
                f"Program '{program}' works for {extent} {varying.name} only, not for any number."
            )
        quantities[extent.node._expr] = varying
        quantities.setdefault(extent.node.expr, varying)
    symbols = {each.name: sympy.Symbol(each.name, integer=True) for each in quantities.values()}
    renamed = {symbol: symbols[each.name] for symbol, each in quantities.items()}
    most = {symbols[each.name]: each.most for each in quantities.values()}
    for guard in shapes.guards:
        assumption = guard.expr.subs(renamed)
        if not _always(assumption, most):
            raise CaptureError(f"Program '{program}' assumes {assumption}, which may not be so.")


def _always(assumption: sympy.Basic, most: dict[sympy.Symbol, int]) -> bool:
    """Whether it holds for every value from 1; of several quantities, only if that is plain."""
    if assumption in (sympy.true, sympy.false):
        return bool(assumption)
    free = assumption.free_symbols
    if len(free) != 1 or not free <= most.keys():
        return False
    (symbol,) = free
    return all(bool(assumption.subs(symbol, value)) for value in range(1, most[symbol] + 1))


def bind_sizes(graph: torch.fx.GraphModule) -> None:
    """Let a graph read its varying extents off its tensors, instead of taking them as inputs."""
    placeholders = graph.graph.find_nodes(op="placeholder")
    sizes = [node for node in placeholders if not isinstance(node.meta["val"], torch.Tensor)]
    last = placeholders[-1] if placeholders else None
    for node in sizes:
        if node.users:
            holder, dimension = _holder(placeholders, node.meta["val"])
            with graph.graph.inserting_after(last):
                size = graph.graph.call_function(torch.ops.aten.sym_size.int, (holder, dimension))
                size.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(size)
        graph.graph.erase_node(node)
    graph.recompile()


def _holder(placeholders: Iterable[torch.fx.Node], size: torch.SymInt) -> tuple[torch.fx.Node, int]:
    """A tensor input, and the dimension of it that has this extent."""
    for node in placeholders:
        value = node.meta["val"]
        if isinstance(value, torch.Tensor):
            extents: Iterable[int | torch.SymInt] = value.shape
            for dimension, extent in enumerate(extents):
                if not isinstance(extent, int) and extent.node.expr == size.node.expr:
                    return node, dimension
    raise CaptureError(f"No input has the extent {size}.")

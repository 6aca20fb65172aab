"""Which piece of a split program every node of its graph goes to.

Operators that compute are *anchors*. They keep the program's order, so that what is written in
place is written before it is read, and every run of anchors on one side, device or host, is a
piece. The rest travels: a view is made anew in every piece that looks through it, so that a
piece always receives the whole tensor and writes reach it; a tensor made of nothing (zeros, a
range) is made in the first piece that uses it. A varying extent is read anew in every piece.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

import torch
from torch.fx import Graph, Node

# Views in all but the schema: the first doesn't own up to sharing memory, and the others read
# no more of their operand than its shape.
_MORE_VIEWS = {"aten._unsafe_view"}
_SHAPE_READERS = {
    f"aten.{name}"
    for name in (
        "new_empty", "new_full", "new_ones", "new_zeros",
        "empty_like", "full_like", "ones_like", "zeros_like",
    )
}  # fmt: skip


def is_anchor(node: Node) -> bool:
    """Whether a node computes, so that it matters who runs it."""
    travels = is_view(node) or is_extent(node) or _is_creation(node)
    return node.op == "call_function" and not travels


def is_extent(node: Node) -> bool:
    """Whether a node gives a varying extent, or what is computed from such, and no tensor."""
    return isinstance(node.meta.get("val"), torch.SymInt)


def is_view(node: Node) -> bool:
    """Whether a node only looks at the memory of its first operand in another way."""
    if node.target is operator.getitem:
        return is_view(node.args[0])
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target.is_view or _name(target) in _MORE_VIEWS


def is_mutable(node: Node) -> bool:
    """Whether a node writes to one of its operands."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def place(graph: Graph, on_device: Callable[[Node], bool]) -> tuple[dict[Node, int], list[bool]]:
    """Give every call node of `graph` its piece; views that several pieces share are copied.

    Args:
        graph: rewritten in place.
        on_device: whether the device runs an anchor.

    Returns:
        The piece's number by node, and for every piece whether it is the device's.
    """
    _forward_written_operands(graph)
    pieces, sides = _place_anchors(graph, on_device)
    written = _last_writes(pieces)
    for node in reversed(list(graph.nodes)):
        if node.op != "call_function" or node in pieces:
            continue
        if is_view(node) or is_extent(node):
            _copy_into_users(graph, node, pieces, written)
        else:
            pieces[node] = min((pieces[user] for user in node.users if user in pieces), default=0)
    return pieces, sides or [True]


def _place_anchors(
    graph: Graph, on_device: Callable[[Node], bool]
) -> tuple[dict[Node, int], list[bool]]:
    pieces: dict[Node, int] = {}
    sides: list[bool] = []
    for node in graph.nodes:
        if not is_anchor(node):
            continue
        if node.target is operator.getitem:
            # One of several results: a list of tensors can't leave the piece that makes it.
            pieces[node] = pieces[node.args[0]]
            continue
        side = on_device(node)
        if not sides or sides[-1] is not side:
            sides.append(side)
        pieces[node] = len(sides) - 1
    return pieces, sides


def _copy_into_users(
    graph: Graph, view: Node, pieces: dict[Node, int], written: dict[Node, int]
) -> None:
    """Replace a view, or an extent, by one copy in every piece that uses it."""
    copies: dict[int, Node] = {}
    for user in list(view.users):
        if user.op == "output":
            # Nobody looks through it any more: stay where the memory gets its last value.
            base = _base(view)
            piece = max(written.get(base, 0), pieces.get(base, 0))
        else:
            piece = pieces[user]
        if piece not in copies:
            with graph.inserting_before(view):
                copies[piece] = graph.node_copy(view, lambda node: node)
            pieces[copies[piece]] = piece
        user.replace_input_with(view, copies[piece])
    graph.erase_node(view)


def _forward_written_operands(graph: Graph) -> None:
    """Let users of an in-place operator's result use the operand that it wrote to instead.

    The result is that operand; this way no piece takes it for a new tensor.
    """
    for node in graph.nodes:
        if not is_mutable(node) or len(node.target._schema.returns) != 1:
            continue
        alias = node.target._schema.returns[0].alias_info
        if alias is None:
            continue
        for argument, value in _arguments(node):
            written = argument.alias_info
            if written is not None and written.before_set == alias.before_set:
                node.replace_all_uses_with(value, lambda user: user.op != "output")


def _last_writes(pieces: dict[Node, int]) -> dict[Node, int]:
    """By tensor that is written to in place, the last piece that does."""
    last: dict[Node, int] = {}
    for node, piece in pieces.items():
        if not is_mutable(node):
            continue
        for argument, value in _arguments(node):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for written in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(written, Node):
                        base = _base(written)
                        last[base] = max(last.get(base, 0), piece)
    return last


def _base(node: Node) -> Node:
    """The node whose memory a chain of views looks at."""
    while node.op == "call_function" and is_view(node):
        node = node.args[0]
    return node


def _arguments(node: Node) -> Iterator[tuple[torch._C.Argument, object]]:
    """An operator's arguments with what the node passes for them."""
    for position, argument in enumerate(node.target._schema.arguments):
        if position < len(node.args):
            yield argument, node.args[position]
        elif argument.name in node.kwargs:
            yield argument, node.kwargs[argument.name]


def _is_creation(node: Node) -> bool:
    """Whether a node makes a tensor of known values from nothing but shapes."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    if torch.Tag.nondeterministic_seeded in target.tags:
        return False
    return _name(target) in _SHAPE_READERS or not node.all_input_nodes


def _name(target: torch._ops.OpOverload) -> str:
    return target._schema.name.replace("::", ".")

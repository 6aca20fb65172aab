"""Split a program by what a device runs: pieces for the device, and pieces for the host."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

import torch
from torch.fx.passes.split_module import split_module

from vllm_npu_runtime.errors import UnsupportedOperatorError
from vllm_npu_runtime.placement import is_anchor, place
from vllm_npu_runtime.program import Binding, Kind, Program, operator_name

# No name of a program's own begins with it.
VALUE = "%"


@dataclass(frozen=True)
class Piece:
    """A run of operators that one side executes.

    Attributes:
        program: its inputs are inputs, weights and KV caches of the whole program under their
            own names, and values of earlier pieces, named ``%…`` and of `Kind.INPUT`. Its
            outputs are such values.
        on_device: the device runs it; else the host.
    """

    program: Program
    on_device: bool


@dataclass(frozen=True)
class Partition:
    """A program in pieces.

    Attributes:
        pieces: in the order in which they run.
        outputs: for each output of the program, the name of the value that it is: an output of
            a piece, or one of the program's inputs.
    """

    pieces: tuple[Piece, ...]
    outputs: tuple[str, ...]

    @property
    def host_operators(self) -> tuple[str, ...]:
        """Names of the operators that the host runs, sorted."""
        names = {
            operator_name(node)
            for piece in self.pieces
            if not piece.on_device
            for node in piece.program.graph.graph.nodes
            if is_anchor(node) and node.target is not operator.getitem
        }
        return tuple(sorted(names))


def partition(program: Program, supported: Callable[[torch.fx.Node], bool] | Set[str]) -> Partition:
    """Split a program into as few pieces as its order of operators allows.

    Operators that compute keep their order. Views and tensor creation go along with whoever
    needs them, whether `supported` lists them or not: no device lacks them.

    Args:
        program: is left as it was.
        supported: names of operators that the device runs, as `Capabilities.operators` has
            them, or a function that tells for a node.

    Raises:
        UnsupportedOperatorError: something other than a tensor would have to pass from one
            piece to another.
    """
    if callable(supported):
        on_device = supported
    else:
        names = supported

        def on_device(node: torch.fx.Node) -> bool:
            return operator_name(node) in names

    whole = _copy(program.graph)
    pieces, sides = place(whole.graph, on_device)
    placeholders = whole.graph.find_nodes(op="placeholder")
    bound = {node.name: binding for node, binding in zip(placeholders, program.inputs, strict=True)}
    constants = {
        node.name: getattr(whole, node.target) for node in whole.graph.find_nodes(op="get_attr")
    }
    split = split_module(
        whole, whole, pieces.__getitem__, keep_original_node_name=True, tuple_return=True
    )
    made = [
        _piece(
            f"{program.name}/{number}",
            getattr(split, f"submod_{number}"),
            bound,
            constants,
            program.weights,
        )
        for number in range(len(sides))
        if hasattr(split, f"submod_{number}")
    ]
    returned = whole.graph.output_node().args[0]
    return Partition(
        tuple(Piece(each, side) for each, side in zip(made, sides, strict=False)),
        tuple(_value_name(node, bound) for node in returned),
    )


def _piece(
    name: str,
    graph: torch.fx.GraphModule,
    bound: Mapping[str, Binding],
    constants: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
) -> Program:
    inputs = []
    for node in graph.graph.find_nodes(op="placeholder"):
        if node.target in bound:
            inputs.append(bound[node.target])
        elif node.target in constants:
            inputs.append(Binding.of(VALUE + node.target, Kind.WEIGHT, constants[node.target]))
        else:
            inputs.append(_value(name, node))
    known = {**weights, **{VALUE + node: tensor for node, tensor in constants.items()}}
    held = {each.name: known[each.name] for each in inputs if each.name in known}
    outputs = tuple(_value(name, node) for node in graph.graph.output_node().args[0])
    return Program(name, graph, tuple(inputs), outputs, held)


def _value(piece: str, node: torch.fx.Node) -> Binding:
    tensor = node.meta.get("val")
    if not isinstance(tensor, torch.Tensor):
        raise UnsupportedOperatorError(
            f"Piece '{piece}' of a program split between device and host: '{operator_name(node)}' "
            f"gives {type(tensor).__name__}, and only tensors may pass between pieces."
        )
    return Binding.of(VALUE + node.name, Kind.INPUT, tensor)


def _value_name(node: torch.fx.Node, bound: dict[str, Binding]) -> str:
    return bound[node.name].name if node.name in bound else VALUE + node.name


def _copy(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The same graph, to be rewritten; tensors and meta data are shared."""
    graph = torch.fx.Graph()
    outputs = graph.graph_copy(module.graph, {})
    graph.output(outputs)
    return torch.fx.GraphModule(module, graph)

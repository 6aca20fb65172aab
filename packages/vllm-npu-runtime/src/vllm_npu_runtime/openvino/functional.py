"""A program's graph without mutation, and with attention as OpenVINO has it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from vllm_npu_runtime.errors import UnsupportedOperatorError
from vllm_npu_runtime.openvino import attention  # noqa: F401  (defines the operator)
from vllm_npu_runtime.openvino.packed_linear import use_packed_linear
from vllm_npu_runtime.openvino.rotary import fuse_rotary
from vllm_npu_runtime.openvino.split_products import split_products
from vllm_npu_runtime.ops import encoder_attention, gather_attention, wna16_linear
from vllm_npu_runtime.program import Kind, Program, operator_name

KEYS = "keys:"
VALUES = "values:"

# Operators that OpenVINO's frontend lacks, or takes apart less well than PyTorch does.
_aten = torch.ops.aten
_DECOMPOSED: list[Any] = [
    _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten.native_layer_norm,
    _aten._softmax,
    _aten.addmm,
    _aten.masked_fill.Scalar,
    _aten.eye,
]


def _contiguous(decomposition: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The program was traced over contiguous results, and may view them as such."""

    def decomposed(*operands: object, **options: object) -> torch.Tensor:
        return decomposition(*operands, **options).contiguous()

    return decomposed


_OWN = {
    torch.ops.vllm_npu.gather_attention.default: _contiguous(gather_attention.decomposition),
    torch.ops.vllm_npu.encoder_attention.default: _contiguous(encoder_attention.decomposition),
    torch.ops.vllm_npu.wna16_linear.default: _contiguous(wna16_linear.decomposition),
}


@dataclass(frozen=True)
class PureGraph:
    """A graph of functions alone.

    Attributes:
        graph: placeholders in the order of `inputs`; its output is a tuple.
        inputs: names of the program's inputs. A paged KV cache stands there twice, as
            ``keys:NAME`` and ``values:NAME``, and rows of a weight as `split_products` says.
    """

    graph: torch.fx.GraphModule
    inputs: tuple[str, ...]


def functional(program: Program, is_piece: bool = False) -> PureGraph:
    """Rewrite a program's graph for the converter. The program stays as it was.

    What a program writes into an input that every run brings anew is seen by the program alone.

    Args:
        program: to rewrite.
        is_piece: whether another piece of the same program may read what this one writes.

    Raises:
        UnsupportedOperatorError: it writes to an input that somebody else reads, other than a
            paged KV cache; attends with a soft cap; or reads a paged cache that it doesn't write.
    """
    module, inputs = _with_own_operators(program)
    fakes = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    mode = next(each.fake_mode for each in fakes)
    pure = torch.func.functionalize(module, remove="mutations")
    with mode:
        graph = make_fx(pure, get_decompositions(_DECOMPOSED) | _OWN)(*fakes)
    placeholders = graph.graph.find_nodes(op="placeholder")
    names = dict(zip(placeholders, inputs, strict=True))
    passing = {each.name for each in program.inputs if each.kind is Kind.INPUT and not is_piece}
    for node in graph.graph.find_nodes(op="call_function", target=_aten.copy_.default):
        if (name := names.get(node.args[0])) not in passing:
            raise UnsupportedOperatorError(
                f"Program '{program.name}' writes to its input '{name}', which OpenVINO can't."
            )
        node.replace_all_uses_with(node.args[1])
        graph.graph.erase_node(node)
    fuse_rotary(graph)
    weights = {each.name for each in program.inputs if each.kind is Kind.WEIGHT}
    return PureGraph(graph, split_products(graph, inputs, weights))


def _with_own_operators(program: Program) -> tuple[torch.fx.GraphModule, tuple[str, ...]]:
    """A copy with each paged cache as two inputs, and OpenVINO's operators in place of ours."""
    graph = torch.fx.Graph()
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    returned = graph.graph_copy(program.graph.graph, copies)
    graph.output(returned)
    module = torch.fx.GraphModule(program.graph, graph)
    nodes = [each for each in graph.nodes if operator_name_or_none(each) == _PAGED]
    caches = {node.args[3] for node in nodes}
    inputs: list[str] = []
    values: dict[torch.fx.Node, torch.fx.Node] = {}
    weights: set[torch.fx.Node] = set()
    for node, binding in zip(graph.find_nodes(op="placeholder"), program.inputs, strict=True):
        if binding.kind is Kind.WEIGHT:
            weights.add(node)
        if node not in caches:
            inputs.append(binding.name)
            continue
        if binding.kind is not Kind.KV_CACHE:
            raise UnsupportedOperatorError(f"Input '{binding.name}' is no KV cache.")
        inputs += [KEYS + binding.name, VALUES + binding.name]
        with graph.inserting_after(node):
            values[node] = graph.placeholder(f"{node.name}_values")
        # A tensor of its own, as tracing tells inputs apart by identity.
        values[node].meta["val"] = torch.empty_like(node.meta["val"])
    written: dict[torch.fx.Node, tuple[object, object]] = {}
    for node in nodes:
        _replace(graph, node, values, written)
    use_packed_linear(graph, weights)
    module.recompile()
    return module, tuple(inputs)


_PAGED = "vllm_npu.paged_attention"


def operator_name_or_none(node: torch.fx.Node) -> str | None:
    """The operator of a call; None for other nodes."""
    if node.op != "call_function" or node.target is operator.getitem:
        return None
    return operator_name(node)


def _replace(
    graph: torch.fx.Graph,
    node: torch.fx.Node,
    values: Mapping[torch.fx.Node, torch.fx.Node],
    written: dict[torch.fx.Node, tuple[object, object]],
) -> None:
    schema = node.target._schema.arguments
    given = {argument.name: argument.default_value for argument in schema}
    given |= dict(zip((argument.name for argument in schema), node.args, strict=False))
    given |= node.kwargs
    if given["soft_cap"]:
        raise UnsupportedOperatorError(
            f"paged_attention with soft_cap {given['soft_cap']}: OpenVINO has none. "
            "Use the gather contract (VLLM_NPU_KV_CONTRACT=gather)."
        )
    cache = given["kv_cache"]
    if given["key"] is None:
        # The layer reads what an earlier one wrote; writing the same again changes nothing.
        if cache not in written:
            raise UnsupportedOperatorError(
                "paged_attention without keys, on a cache that no earlier layer writes: "
                "OpenVINO's always writes."
            )
        given["key"], given["value"] = written[cache]
    written[cache] = (given["key"], given["value"])
    with graph.inserting_before(node):
        own = graph.call_function(
            torch.ops.vllm_npu_openvino.paged_attention.default,
            (
                given["query"], given["key"], given["value"], cache, values[cache],
                given["block_table"], given["query_start_loc"], given["seq_lens"],
                given["scale"], given["sliding_window"],
            ),
        )  # fmt: skip
    node.replace_all_uses_with(own)
    graph.erase_node(node)

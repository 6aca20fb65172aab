"""A program: one captured graph, and what each of its inputs and outputs is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Kind(StrEnum):
    """What a graph input is bound to, which tells how long its memory lives."""

    INPUT = "input"
    """Rewritten before every run: token ids, positions, block tables …"""
    KV_CACHE = "kv_cache"
    """A layer's KV cache; read, and on paged devices also written, by the program."""
    WEIGHT = "weight"
    """A parameter or buffer; changes only when weights are loaded anew."""


@dataclass(frozen=True)
class Binding:
    """One graph input or output.

    Attributes:
        name: unique within the program: an input's field name, a layer's name for a KV cache,
            a parameter's qualified name for a weight.
        kind: see `Kind`; outputs carry `Kind.INPUT`, as they too change with every run.
        shape: extents; None where it varies from run to run.
        dtype: element type.
    """

    name: str
    kind: Kind
    shape: tuple[int | None, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes; of one row where an extent varies."""
        count = 1
        for extent in self.shape:
            count *= 1 if extent is None else extent
        return count * self.dtype.itemsize

    @classmethod
    def of(cls, name: str, kind: Kind, tensor: torch.Tensor) -> Binding:
        """The binding that describes `tensor`; symbolic extents vary."""
        shape = tuple(extent if isinstance(extent, int) else None for extent in tensor.shape)
        return cls(name, kind, shape, tensor.dtype)

    def fits(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` has the shape and dtype."""
        return (
            tensor.dtype == self.dtype
            and tensor.dim() == len(self.shape)
            and all(
                extent in (None, given)
                for extent, given in zip(self.shape, tensor.shape, strict=True)
            )
        )


@dataclass
class Program:
    """A captured graph with its bindings.

    Attributes:
        name: for logs, as in "tokens=64".
        graph: an FX graph of ATen operators and `vllm_npu::` operators. Its placeholders stand
            in the order of `inputs`; its output is a tuple in the order of `outputs`.
        inputs: what every placeholder is bound to.
        outputs: what every returned tensor is.
        weights: the tensors of the `Kind.WEIGHT` inputs by name; a driver may compile them in.
    """

    name: str
    graph: torch.fx.GraphModule
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def static(self) -> bool:
        """Whether every run has the same shapes. Those of KV caches never change once bound."""
        return all(
            None not in binding.shape
            for binding in (*self.inputs, *self.outputs)
            if binding.kind is not Kind.KV_CACHE
        )

    def named(self, kind: Kind) -> dict[str, Binding]:
        """The inputs of one kind, by name."""
        return {binding.name: binding for binding in self.inputs if binding.kind is kind}

    def operators(self) -> set[str]:
        """Names of the operators, as in ``aten.mm`` or ``vllm_npu.paged_attention``."""
        return {
            operator_name(node) for node in self.graph.graph.nodes if node.op == "call_function"
        }


def operator_name(node: torch.fx.Node) -> str:
    """``namespace.operator`` of a call node, without its overload."""
    target = node.target
    packet = getattr(target, "overloadpacket", target)
    qualified = getattr(packet, "_qualified_op_name", None)
    if qualified is not None:
        return str(qualified).replace("::", ".")
    return getattr(target, "__name__", str(target))

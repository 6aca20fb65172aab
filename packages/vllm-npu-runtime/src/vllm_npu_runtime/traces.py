"""One trace for graphs that differ in their extents only, as buckets of one model do.

Most of a capture's time goes into Dynamo, which follows the model's Python; spelling what it
found in ATen takes a fraction. So extents that differ from graph to graph are symbols in the
first trace, which notes all that the Python assumed of them, and each further graph is spelled
for its own numbers, if every assumption holds for these. If one doesn't, or a number is below 2,
of which Dynamo takes symbols to be without a note, the graph gets a trace of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from vllm_npu_runtime.capture import bindings_of, capture, outputs_of, weights_among
from vllm_npu_runtime.errors import CaptureError
from vllm_npu_runtime.program import Binding, Program
from vllm_npu_runtime.tracing import Decompositions, Function, Named, Tracer, trace

Extent: TypeAlias = "int | sympy.Expr"
LEAST = 2


class Traces:
    """Traces of one function, which reads the same tensors in other extents for each graph.

    Beside their extents, nothing that the function reads may differ from graph to graph.
    """

    def __init__(self) -> None:
        self._traces: list[_Trace] = []
        self._takes_symbols = True

    def program(
        self,
        name: str,
        function: Function,
        tensors: Iterable[Named],
        decompositions: Decompositions | None = None,
    ) -> Program:
        """A program of static shape: those of the examples.

        Args:
            name: of the program.
            function: see `capture`.
            tensors: see `capture`; `varying` says which extents differ from graph to graph.
            decompositions: see `capture`.

        Raises:
            CaptureError: see `capture`.
        """
        known = list(tensors)
        replaced = dict(decompositions or {})
        for each in self._traces:
            if (program := each.program(name, known, replaced)) is not None:
                return program
        if not self._takes_symbols:
            return self._static(name, function, known, replaced)
        tracer = _Tracer(name, known, replaced)
        try:
            names = trace(function, tracer, known, torch._dynamo.maybe_mark_dynamic)
        except CaptureError:  # of symbols, or else the next one says the same
            program = self._static(name, function, known, replaced)
            self._takes_symbols = False
            return program
        made = _Trace(tracer.module, tracer.inputs, names, tracer.assumptions)
        self._traces.append(made)
        return made.assembled(name, tracer.spelled, known)

    @staticmethod
    def _static(
        name: str, function: Function, tensors: Iterable[Named], replaced: Decompositions
    ) -> Program:
        fixed = [Named(each.name, each.kind, each.tensor) for each in tensors]
        return capture(name, function, fixed, replaced)


@dataclass(frozen=True)
class _Input:
    """A placeholder of Dynamo's graph.

    Attributes:
        name: of the tensor; None: an extent.
        shape: of the tensor; of an extent, itself alone.
        stride: of the tensor.
        dtype: of the tensor.
    """

    name: str | None
    shape: tuple[Extent, ...]
    stride: tuple[Extent, ...] = ()
    dtype: torch.dtype | None = None


class _Tracer(Tracer):
    """Keeps the graph with its symbols, and spells it for the extents of the examples."""

    def __init__(self, name: str, tensors: Sequence[Named], decompositions: Decompositions) -> None:
        super().__init__(name, tensors)
        self._tensors = tensors
        self._decompositions = decompositions

    def take(
        self, module: torch.fx.GraphModule, used: Sequence[Named | None], fakes: Sequence[Any]
    ) -> Sequence[torch.Tensor]:
        self.module = module
        self.inputs = tuple(_input(item, fake) for item, fake in zip(used, fakes, strict=True))
        mode = next(fake.fake_mode for fake in fakes if isinstance(fake, FakeTensor))
        symbols = mode.shape_env
        assert symbols is not None, "Dynamo traces with symbols"
        self.assumptions = tuple(guard.expr for guard in symbols.guards)
        extents = _extents(self.inputs, _by_name(self._tensors))
        assert extents is not None, "the examples have the extents that they were traced with"
        self.spelled = _spelled(
            module, self.inputs, extents, _by_name(self._tensors), self._decompositions
        )
        return outputs_of(self.spelled)


class _Trace:
    """One trace, and what it holds for.

    Args:
        module: Dynamo's graph.
        inputs: what stands behind its placeholders.
        outputs: names of what it returns.
        assumptions: on the symbols among the inputs' extents.
    """

    def __init__(
        self,
        module: torch.fx.GraphModule,
        inputs: tuple[_Input, ...],
        outputs: tuple[str, ...],
        assumptions: tuple[sympy.Basic, ...],
    ) -> None:
        self._module = module
        self._inputs = inputs
        self._outputs = outputs
        self._assumptions = assumptions

    def program(
        self, name: str, tensors: Sequence[Named], decompositions: Decompositions
    ) -> Program | None:
        """The program for other tensors; None where the trace doesn't hold for their extents."""
        by_name = _by_name(tensors)
        extents = _extents(self._inputs, by_name)
        if extents is None or not self._holds(extents):
            return None
        graph = _spelled(self._module, self._inputs, extents, by_name, decompositions)
        return self.assembled(name, graph, tensors)

    def assembled(
        self, name: str, graph: torch.fx.GraphModule, tensors: Sequence[Named]
    ) -> Program:
        """A spelled graph with its bindings."""
        by_name = _by_name(tensors)
        used = [by_name[each.name] for each in self._inputs if each.name is not None]
        inputs = tuple(Binding.of(item.name, item.kind, item.tensor) for item in used)
        outputs = bindings_of(self._outputs, outputs_of(graph))
        return Program(name, graph, inputs, outputs, weights_among(used))

    def _holds(self, extents: Mapping[sympy.Symbol, int]) -> bool:
        numbers = {symbol: sympy.Integer(extent) for symbol, extent in extents.items()}
        return all(extent >= LEAST for extent in extents.values()) and all(
            each.subs(numbers) == sympy.true for each in self._assumptions
        )


def _input(item: Named | None, fake: Any) -> _Input:
    if item is None:
        return _Input(None, (_extent(fake),))
    shape, stride = tuple(map(_extent, fake.shape)), tuple(map(_extent, fake.stride()))
    return _Input(item.name, shape, stride, fake.dtype)


def _extent(value: int | torch.SymInt) -> Extent:
    # What it was traced as, whatever the trace has found it equal to since.
    return value if isinstance(value, int) else value.node._expr


def _by_name(tensors: Iterable[Named]) -> dict[str, Named]:
    found: dict[str, Named] = {}
    for item in tensors:
        found.setdefault(item.name, item)
    return found


def _extents(
    inputs: Iterable[_Input], tensors: Mapping[str, Named]
) -> dict[sympy.Symbol, int] | None:
    """What the symbols of a trace stand for in other tensors; None if those don't fit."""
    extents: dict[sympy.Symbol, int] = {}
    derived: list[tuple[sympy.Expr, int]] = []
    for each in inputs:
        if each.name is None:
            continue
        item = tensors.get(each.name)
        if item is None or item.tensor.dtype != each.dtype:
            return None
        given = (*item.tensor.shape, *item.tensor.stride())
        traced = (*each.shape, *each.stride)
        if len(given) != len(traced):
            return None
        for extent, number in zip(traced, given, strict=True):
            if isinstance(extent, sympy.Symbol):
                if extents.setdefault(extent, number) != number:
                    return None
            elif isinstance(extent, sympy.Expr):
                derived.append((extent, number))
            elif extent != number:
                return None
    if any(extent.subs(extents) != number for extent, number in derived):
        return None
    return extents


def _spelled(
    module: torch.fx.GraphModule,
    inputs: Sequence[_Input],
    extents: Mapping[sympy.Symbol, int],
    tensors: Mapping[str, Named],
    decompositions: Decompositions,
) -> torch.fx.GraphModule:
    """The graph in ATen, for these extents; its placeholders are the tensors among the inputs."""
    mode = FakeTensorMode()
    fakes = [
        mode.from_tensor(tensors[each.name].tensor, static_shapes=True)
        for each in inputs
        if each.name is not None
    ]

    def with_numbers(*given: torch.Tensor) -> Any:
        rest = iter(given)
        return module(
            *(
                next(rest) if each.name is not None else _number(each.shape[0], extents)
                for each in inputs
            )
        )

    with mode:
        return make_fx(with_numbers, dict(decompositions))(*fakes)


def _number(extent: Extent, extents: Mapping[sympy.Symbol, int]) -> int:
    return extent if isinstance(extent, int) else int(extent.subs(extents))

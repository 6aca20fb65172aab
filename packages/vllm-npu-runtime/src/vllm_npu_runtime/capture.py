"""Capture a function's tensor work as one `Program`.

Dynamo traces the function without a break, and a second trace spells the graph in ATen and our
own operators. Every graph input is recognised as a tensor that the caller named; from then on
the program stands for itself, and no guard and no Python of the model runs any more. An input
that nobody named would be frozen at the value of today, so it is an error.

Shapes are static but for the extents that the caller says vary. What the function assumes about
those is checked for every value that they may have, as no guard will.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx

from vllm_npu_runtime.extents import bind_sizes, check_assumptions
from vllm_npu_runtime.program import Binding, Kind, Program
from vllm_npu_runtime.tracing import Decompositions, Function, Named, Tracer, trace

__all__ = ["Decompositions", "Function", "Named", "capture", "module_tensors"]


def module_tensors(module: torch.nn.Module) -> list[Named]:
    """Every parameter, buffer and plain tensor attribute of a module, as weights."""
    found = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for prefix, child in module.named_modules():
        for attribute, value in vars(child).items():
            if isinstance(value, torch.Tensor):
                found.append((f"{prefix}.{attribute}" if prefix else attribute, value))
    return [Named(name, Kind.WEIGHT, tensor) for name, tensor in found]


def capture(
    name: str,
    function: Function,
    tensors: Iterable[Named],
    decompositions: Decompositions | None = None,
) -> Program:
    """Trace `function`, which takes nothing and returns its outputs by name.

    Tracing computes nothing: it runs on meta data alone.

    Args:
        name: of the program, for logs.
        function: reads the tensors among `tensors`, from a closure or from global state.
        tensors: all that the graph may depend on. Where two are one tensor, the first counts.
        decompositions: operator to replacement, for what a device doesn't know.

    Raises:
        CaptureError: the function breaks the graph, reads a tensor that isn't among `tensors`,
            or works for some values of a varying extent only.
    """
    known = list(tensors)
    tracer = _Tracer(name, known, decompositions or {})
    names = trace(function, tracer, known, torch._dynamo.mark_dynamic)
    return tracer.program(names)


class _Tracer(Tracer):
    """Spells the graph for the extents of the examples, and any of those that vary."""

    def __init__(self, name: str, tensors: Iterable[Named], decompositions: Decompositions) -> None:
        super().__init__(name, tensors)
        self._decompositions = dict(decompositions)

    def take(
        self, module: torch.fx.GraphModule, used: Sequence[Named | None], fakes: Sequence[Any]
    ) -> Sequence[torch.Tensor]:
        mode = next(fake.fake_mode for fake in fakes if isinstance(fake, FakeTensor))
        with mode:
            self._graph = make_fx(module, self._decompositions)(*fakes)
        inputs = [(item, fake) for item, fake in zip(used, fakes, strict=True) if item is not None]
        check_assumptions(
            self.name,
            mode.shape_env,
            [(fake.shape[at], each) for item, fake in inputs for at, each in item.varying.items()],
        )
        bind_sizes(self._graph)
        self._inputs = tuple(Binding.of(item.name, item.kind, fake) for item, fake in inputs)
        self._weights = weights_among(item for item, _fake in inputs)
        self._outputs = outputs_of(self._graph)
        return self._outputs

    def program(self, names: Iterable[str]) -> Program:
        """The captured program."""
        outputs = bindings_of(names, self._outputs)
        return Program(self.name, self._graph, self._inputs, outputs, self._weights)


def weights_among(items: Iterable[Named]) -> dict[str, torch.Tensor]:
    """The weights among a program's inputs, by name."""
    return {item.name: item.tensor for item in items if item.kind is Kind.WEIGHT}


def outputs_of(graph: torch.fx.GraphModule) -> list[torch.Tensor]:
    """What a graph returns, without data."""
    return [node.meta["val"] for node in graph.graph.output_node().args[0]]


def bindings_of(names: Iterable[str], outputs: Iterable[torch.Tensor]) -> tuple[Binding, ...]:
    """Bindings of a program's outputs."""
    return tuple(
        Binding.of(name, Kind.INPUT, output) for name, output in zip(names, outputs, strict=True)
    )

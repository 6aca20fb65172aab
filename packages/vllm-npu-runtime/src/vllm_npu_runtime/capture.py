"""Capture a function's tensor work as one `Program`.

Dynamo traces the function without a break, and a second trace spells the graph in ATen and our
own operators. Every graph input is recognised as a tensor that the caller named; from then on
the program stands for itself, and no guard and no Python of the model runs any more. An input
that nobody named would be frozen at the value of today, so it is an error.

Shapes are static but for the extents that the caller says vary. What the function assumes about
those is checked for every value that they may have, as no guard will.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx

from vllm_npu_runtime.errors import CaptureError
from vllm_npu_runtime.extents import Varying, bind_sizes, check_assumptions
from vllm_npu_runtime.program import Binding, Kind, Program

Decompositions = Mapping[torch._ops.OpOverload, Callable[..., object]]


@dataclass(frozen=True)
class Named:
    """A tensor that a graph may take as input, under the name that it is bound by.

    Attributes:
        name: see `Binding`.
        kind: see `Binding`.
        tensor: the example that the graph is traced with.
        varying: the dimensions whose extent varies from run to run.
    """

    name: str
    kind: Kind
    tensor: torch.Tensor
    varying: Mapping[int, Varying] = field(default_factory=dict)


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
    function: Callable[[], Mapping[str, torch.Tensor]],
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
    for item in known:
        for dimension in item.varying:
            torch._dynamo.mark_dynamic(item.tensor, dimension)
    tracer = _Tracer(name, known, decompositions or {})
    compiled = torch.compile(
        _with_own_code(function), backend=tracer, fullgraph=True, dynamic=False
    )
    try:
        result = compiled()
    except Exception as error:
        if isinstance(cause := error.__cause__ or error, CaptureError):
            raise cause from None
        reason = str(error).strip().split("\n\n")[0]
        raise CaptureError(f"Program '{name}' can't be captured: {reason}") from error
    finally:
        for item in known:
            _unmark(item.tensor)
    return tracer.program(result)


class _Tracer:
    """The Dynamo backend of one capture: keeps the graph and hands back stand-ins."""

    def __init__(self, name: str, tensors: Iterable[Named], decompositions: Decompositions) -> None:
        self._name = name
        self._by_id: dict[int, Named] = {}
        for item in tensors:
            self._by_id.setdefault(id(item.tensor), item)
        self._decompositions = dict(decompositions)
        self._graph: torch.fx.GraphModule | None = None
        self._inputs: tuple[Binding, ...] = ()
        self._outputs: list[torch.Tensor] = []
        self._weights: dict[str, torch.Tensor] = {}
        self._stand_ins: tuple[torch.Tensor, ...] = ()

    def __call__(
        self, module: torch.fx.GraphModule, examples: Sequence[torch.Tensor | torch.SymInt]
    ) -> Callable[..., tuple[torch.Tensor, ...]]:
        placeholders = module.graph.find_nodes(op="placeholder")
        used: list[Named | None] = []
        for node, example in zip(placeholders, examples, strict=True):
            used.append(self._recognised(node, example))
        fakes: list[Any] = [node.meta["example_value"] for node in placeholders]
        mode = next(fake.fake_mode for fake in fakes if isinstance(fake, FakeTensor))
        with mode:
            self._graph = make_fx(module, self._decompositions)(*fakes)
        inputs = [(item, fake) for item, fake in zip(used, fakes, strict=True) if item is not None]
        check_assumptions(
            self._name,
            mode.shape_env,
            [(fake.shape[at], each) for item, fake in inputs for at, each in item.varying.items()],
        )
        bind_sizes(self._graph)
        self._inputs = tuple(Binding.of(item.name, item.kind, fake) for item, fake in inputs)
        self._weights = {
            item.name: item.tensor for item, _fake in inputs if item.kind is Kind.WEIGHT
        }
        self._outputs = [node.meta["val"] for node in self._graph.graph.output_node().args[0]]
        # The function's result is made of stand-ins, by which `program` tells outputs apart.
        self._stand_ins = tuple(
            torch.empty([_example(each) for each in output.shape], dtype=output.dtype)
            for output in self._outputs
        )
        return lambda *_inputs: self._stand_ins

    def _recognised(
        self, node: torch.fx.Node, example: torch.Tensor | torch.SymInt
    ) -> Named | None:
        if not isinstance(example, torch.Tensor):
            return None  # a varying extent, which the graph will read off a tensor
        if id(example) not in self._by_id:
            raise CaptureError(
                f"Program '{self._name}' reads the tensor '{node.target}', which is neither "
                "a step's input, nor a KV cache, nor a weight of the model: compiled in, it "
                "would keep the value that it has now."
            )
        return self._by_id[id(example)]

    def program(self, result: Mapping[str, torch.Tensor]) -> Program:
        """The captured program, with outputs named as in the function's result."""
        if self._graph is None:
            raise CaptureError(f"Program '{self._name}' can't be captured: it computes nothing.")
        names: dict[int, str] = {}
        for key, value in result.items():
            if names.setdefault(id(value), key) != key:
                raise CaptureError(
                    f"Program '{self._name}' returns one tensor as '{names[id(value)]}' and "
                    f"'{key}'."
                )
        missing = set(names) - {id(tensor) for tensor in self._stand_ins}
        if missing:
            raise CaptureError(
                f"Program '{self._name}' returns an input unchanged as "
                f"'{names[missing.pop()]}': clone it."
            )
        # Dynamo also returns what the function leaves in reach by side effect; it has no name.
        outputs = tuple(
            Binding.of(names.get(id(stand_in), f"side_effect_{index}"), Kind.INPUT, output)
            for index, (stand_in, output) in enumerate(
                zip(self._stand_ins, self._outputs, strict=True)
            )
        )
        return Program(self._name, self._graph, self._inputs, outputs, self._weights)


def _unmark(tensor: torch.Tensor) -> None:
    """Undo `mark_dynamic`, which would last for the captures to come."""
    marks = ("_dynamo_dynamic", "_has_dynamo_dim_marking")
    for attribute in [each for each in vars(tensor) if each.startswith(marks)]:
        delattr(tensor, attribute)


def _example(extent: int | torch.SymInt) -> int:
    """An extent, or the value that a varying one had in the trace."""
    return extent if isinstance(extent, int) else int(extent.node.hint)


def _with_own_code(function: Callable[[], Mapping[str, torch.Tensor]]) -> types.FunctionType:
    """A copy of a function with a code object of its own.

    Dynamo caches by code object and refuses the ninth variant of one; every capture is a
    variant, as it differs in shapes.
    """
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"A plain function is needed, not {type(function).__name__}.")
    copy = types.FunctionType(
        function.__code__.replace(co_name=f"{function.__name__}_captured"),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy

"""Dynamo as a tracer: a function's tensor work without a break, with every input known by name."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vllm_npu_runtime.errors import CaptureError
from vllm_npu_runtime.extents import Varying
from vllm_npu_runtime.program import Kind

Function = Callable[[], Mapping[str, torch.Tensor]]
Decompositions = Mapping[torch._ops.OpOverload, Callable[..., object]]


@dataclass(frozen=True)
class Named:
    """A tensor that a graph may take as input, under the name that it is bound by.

    Attributes:
        name: see `Binding`.
        kind: see `Binding`.
        tensor: the example that the graph is traced with.
        varying: the dimensions whose extent varies from run to run, or from graph to graph.
    """

    name: str
    kind: Kind
    tensor: torch.Tensor
    varying: Mapping[int, Varying] = field(default_factory=dict)


class Tracer(ABC):
    """The Dynamo backend of one trace: recognises the inputs and hands back stand-ins.

    Args:
        name: of what is traced, for errors.
        tensors: all that the graph may depend on. Where two are one tensor, the first counts.
    """

    def __init__(self, name: str, tensors: Iterable[Named]) -> None:
        self.name = name
        self._by_id: dict[int, Named] = {}
        for item in tensors:
            self._by_id.setdefault(id(item.tensor), item)
        self._stand_ins: tuple[torch.Tensor, ...] | None = None

    @abstractmethod
    def take(
        self, module: torch.fx.GraphModule, used: Sequence[Named | None], fakes: Sequence[Any]
    ) -> Sequence[torch.Tensor]:
        """Take the graph, of Dynamo's spelling.

        Args:
            module: the graph.
            used: what stands behind each placeholder; None: an extent that varies.
            fakes: an example of each, without data.

        Returns:
            The outputs, without data.
        """

    def __call__(
        self, module: torch.fx.GraphModule, examples: Sequence[torch.Tensor | torch.SymInt]
    ) -> Callable[..., tuple[torch.Tensor, ...]]:
        placeholders = module.graph.find_nodes(op="placeholder")
        used: list[Named | None] = []
        for node, example in zip(placeholders, examples, strict=True):
            used.append(self._recognised(node, example))
        fakes: list[Any] = [node.meta["example_value"] for node in placeholders]
        outputs = self.take(module, used, fakes)
        # The function's result is made of stand-ins, by which `output_names` tells outputs apart.
        stand_ins = tuple(
            torch.empty([_example(each) for each in output.shape], dtype=output.dtype)
            for output in outputs
        )
        self._stand_ins = stand_ins
        return lambda *_inputs: stand_ins

    def _recognised(
        self, node: torch.fx.Node, example: torch.Tensor | torch.SymInt
    ) -> Named | None:
        if not isinstance(example, torch.Tensor):
            return None
        if id(example) not in self._by_id:
            raise CaptureError(
                f"Program '{self.name}' reads the tensor '{node.target}', which is neither "
                "a step's input, nor a KV cache, nor a weight of the model: compiled in, it "
                "would keep the value that it has now."
            )
        return self._by_id[id(example)]

    def output_names(self, result: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
        """The graph's outputs by their names in the function's result."""
        if self._stand_ins is None:
            raise CaptureError(f"Program '{self.name}' can't be captured: it computes nothing.")
        names: dict[int, str] = {}
        for key, value in result.items():
            if names.setdefault(id(value), key) != key:
                raise CaptureError(
                    f"Program '{self.name}' returns one tensor as '{names[id(value)]}' and '{key}'."
                )
        missing = set(names) - {id(tensor) for tensor in self._stand_ins}
        if missing:
            raise CaptureError(
                f"Program '{self.name}' returns an input unchanged as "
                f"'{names[missing.pop()]}': clone it."
            )
        # Dynamo also returns what the function leaves in reach by side effect; it has no name.
        return tuple(
            names.get(id(each), f"side_effect_{index}")
            for index, each in enumerate(self._stand_ins)
        )


def trace(
    function: Function,
    tracer: Tracer,
    tensors: Sequence[Named],
    mark: Callable[[torch.Tensor, int], None],
) -> tuple[str, ...]:
    """Trace `function` with `tracer`. Nothing is computed: it runs on meta data alone.

    Args:
        function: takes nothing, and returns its outputs by name.
        tracer: takes the graph.
        tensors: those whose `varying` counts.
        mark: tells Dynamo that an extent varies.

    Returns:
        Names of the graph's outputs.

    Raises:
        CaptureError: there is no such graph; says why.
    """
    for item in tensors:
        for dimension in item.varying:
            mark(item.tensor, dimension)
    compiled = torch.compile(
        _with_own_code(function), backend=tracer, fullgraph=True, dynamic=False
    )
    try:
        result = compiled()
    except Exception as error:
        if isinstance(cause := error.__cause__ or error, CaptureError):
            raise cause from None
        reason = str(error).strip().split("\n\n")[0]
        raise CaptureError(f"Program '{tracer.name}' can't be captured: {reason}") from error
    finally:
        for item in tensors:
            _unmark(item.tensor)
    return tracer.output_names(result)


def _unmark(tensor: torch.Tensor) -> None:
    """Undo `mark_dynamic`, which would last for the traces to come."""
    marks = ("_dynamo_dynamic", "_dynamo_weak_dynamic", "_has_dynamo_dim_marking")
    for attribute in [each for each in vars(tensor) if each.startswith(marks)]:
        delattr(tensor, attribute)


def _example(extent: int | torch.SymInt) -> int:
    """An extent, or the value that a varying one had in the trace."""
    return extent if isinstance(extent, int) else int(extent.node.hint)


def _with_own_code(function: Function) -> types.FunctionType:
    """A copy of a function with a code object of its own.

    Dynamo caches by code object and refuses the ninth variant of one; every trace is a variant,
    as it differs in shapes.
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

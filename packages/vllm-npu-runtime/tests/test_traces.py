"""One trace for graphs that differ in extents: the same graphs as from traces of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch

from vllm_npu_runtime.capture import Named, capture, module_tensors
from vllm_npu_runtime.drivers.reference import ReferenceExecutable
from vllm_npu_runtime.errors import CaptureError
from vllm_npu_runtime.extents import Varying
from vllm_npu_runtime.program import Kind, Program
from vllm_npu_runtime.traces import Traces

Work = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]
ROWS = {0: Varying("rows", 64)}
SIZES = (16, 8, 5, 2)


class Counted:
    """Counts how often Dynamo traces a function."""

    def __init__(self, work: Work, tensors: list[Named] | None = None) -> None:
        self.times = 0
        self.traces = Traces()
        self._work = work
        self._tensors = tensors or []

    def program(self, x: torch.Tensor) -> Program:
        def function() -> Mapping[str, torch.Tensor]:
            self.times += 1
            return self._work(x)

        named = [Named("x", Kind.INPUT, x, ROWS), *self._tensors]
        return self.traces.program(f"rows={len(x)}", function, named)

    def alone(self, x: torch.Tensor) -> Program:
        named = [Named("x", Kind.INPUT, x), *self._tensors]
        return capture(f"rows={len(x)}", lambda: self._work(x), named)


def same(one: Program, other: Program) -> bool:
    return (one.graph.code, one.inputs, one.outputs, set(one.weights)) == (
        other.graph.code,
        other.inputs,
        other.outputs,
        set(other.weights),
    )


def run(program: Program, x: torch.Tensor) -> torch.Tensor:
    executable = ReferenceExecutable(program)
    executable.bind({"x": x})
    return executable.run()[0]


def test_one_trace_serves_every_extent() -> None:
    layer = torch.nn.Linear(4, 6).requires_grad_(False)

    def work(x: torch.Tensor) -> Mapping[str, torch.Tensor]:
        halves = layer(x).view(x.shape[0], 2, -1).chunk(2, dim=1)
        return {"sum": halves[0] * x.shape[0], "other": torch.cat(halves).reshape(-1, 3)}

    with torch.inference_mode():
        counted = Counted(work, module_tensors(layer))
        for size in SIZES:
            x = torch.randn(size, 4)
            program = counted.program(x)
            assert program.name == f"rows={size}" and program.static
            assert same(program, counted.alone(x))
            torch.testing.assert_close(run(program, x), work(x)["sum"])
    assert counted.times == 1


def test_programs_keep_their_weights_and_forget_the_examples() -> None:
    weight = torch.randn(4, 4)
    counted = Counted(lambda x: {"out": x @ weight}, [Named("weight", Kind.WEIGHT, weight)])
    for size in SIZES:
        program = counted.program(torch.zeros(size, 4))
        other = torch.randn(size, 4)
        assert program.weights["weight"] is weight
        torch.testing.assert_close(run(program, other), other @ weight)


def test_what_depends_on_the_extent_gets_a_trace_of_its_own() -> None:
    def work(x: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return {"out": x + 1 if x.shape[0] > 6 else x - 1}

    counted = Counted(work)
    for size in (16, 8, 7, 5, 2):
        x = torch.randn(size, 3)
        torch.testing.assert_close(run(counted.program(x), x), work(x)["out"])
    assert counted.times == 2


def test_one_row_gets_a_trace_of_its_own() -> None:
    """Dynamo takes a symbol to be two at least, and notes no assumption."""

    def work(x: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return {"out": x + 1 if x.shape[0] > 1 else x - 1}

    counted = Counted(work)
    for size in (8, 4, 1):
        x = torch.randn(size, 3)
        torch.testing.assert_close(run(counted.program(x), x), work(x)["out"])
    assert counted.times == 2


def test_a_function_that_fixes_the_extent_is_traced_for_each() -> None:
    def work(x: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return {"out": torch.stack([x[index] for index in range(x.shape[0])]) * 2}

    counted = Counted(work)
    for size in (4, 3):
        x = torch.randn(size, 3)
        assert same(counted.program(x), counted.alone(x))
    assert counted.times == 2


def test_a_function_that_takes_no_symbols_is_traced_without() -> None:
    def work(x: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return {"out": x * x.shape[0].bit_length()}

    with pytest.raises(CaptureError):
        named = [Named("x", Kind.INPUT, torch.zeros(4, 3), ROWS)]
        capture("p", lambda: work(named[0].tensor), named)
    counted = Counted(work)
    for size in SIZES:
        x = torch.randn(size, 3)
        assert same(counted.program(x), counted.alone(x))


def test_equal_extents_of_two_inputs_are_not_taken_for_one() -> None:
    """They are as long as each other in the first graph only."""
    traces, times = Traces(), []

    def program(x: torch.Tensor, y: torch.Tensor) -> Program:
        def function() -> Mapping[str, torch.Tensor]:
            times.append(1)
            return {"out": torch.cat([x, y]) * y.shape[0]}

        named = [Named("x", Kind.INPUT, x, ROWS), Named("y", Kind.INPUT, y, ROWS)]
        return traces.program("p", function, named)

    for rows, others in ((8, 8), (8, 3), (2, 5)):
        x, y = torch.randn(rows, 2), torch.randn(others, 2)
        executable = ReferenceExecutable(program(x, y))
        executable.bind({"x": x, "y": y})
        torch.testing.assert_close(executable.run()[0], torch.cat([x, y]) * others)
    assert len(times) == 1


@pytest.mark.parametrize("other", [torch.zeros(4, 5), torch.zeros(4, 3).int(), torch.zeros(3, 4).T])
def test_tensors_that_differ_otherwise_get_a_trace_of_their_own(other: torch.Tensor) -> None:
    counted = Counted(lambda x: {"out": x.reshape(-1) + 1})
    counted.program(torch.zeros(8, 3))
    assert same(counted.program(other), counted.alone(other))
    assert counted.times == 2


def test_a_cache_is_written_by_every_program() -> None:
    cache = torch.zeros(64, 3)

    def work(x: torch.Tensor) -> Mapping[str, torch.Tensor]:
        cache[: x.shape[0]].copy_(x)
        return {"out": x.sum(0)}

    counted = Counted(work, [Named("cache", Kind.KV_CACHE, cache)])
    for size in SIZES:
        x, fresh = torch.randn(size, 3), torch.zeros(64, 3)
        program = counted.program(x)
        assert not cache.any(), "tracing computed"
        executable = ReferenceExecutable(program)
        executable.bind({"x": x, "cache": fresh})
        executable.run()
        assert fresh[:size].equal(x) and not fresh[size:].any()
    assert counted.times == 1


def test_a_decomposition_reaches_every_program() -> None:
    traces = Traces()
    replaced = {torch.ops.aten.relu.default: lambda x: torch.ops.aten.maximum(x, x * 0)}
    for size in SIZES:
        x = torch.randn(size, 3)
        named = [Named("x", Kind.INPUT, x, ROWS)]
        program = traces.program("p", lambda x=x: {"out": x.relu()}, named, replaced)
        assert program.operators() == {"aten.maximum", "aten.mul"}


def test_an_unknown_tensor_is_refused() -> None:
    x, forgotten = torch.randn(8, 3), torch.randn(3)
    with pytest.raises(CaptureError, match="forgotten"):
        Traces().program("p", lambda: {"out": x + forgotten}, [Named("x", Kind.INPUT, x, ROWS)])

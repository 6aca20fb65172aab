"""Capture: one static graph that stands for itself, or an error that says why not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from vllm_npu_runtime.capture import Named, capture, module_tensors
from vllm_npu_runtime.drivers.reference import ReferenceExecutable
from vllm_npu_runtime.errors import CaptureError
from vllm_npu_runtime.extents import Varying
from vllm_npu_runtime.program import Kind, Program


def inputs(**tensors: torch.Tensor) -> list[Named]:
    """Tensors as inputs under their own names."""
    return [Named(name, Kind.INPUT, tensor) for name, tensor in tensors.items()]


def run(program: Program, **tensors: torch.Tensor) -> list[torch.Tensor]:
    """What the program gives for these inputs."""
    executable = ReferenceExecutable(program)
    executable.bind(tensors)
    return list(executable.run())


def test_program_computes_what_the_function_does() -> None:
    """For other values of its inputs too."""
    x = torch.randn(3, 4)
    program = capture("p", lambda: {"out": x.softmax(-1) * 2}, inputs(x=x))
    other = torch.randn(3, 4)
    torch.testing.assert_close(run(program, x=other)[0], other.softmax(-1) * 2)


def test_operators_are_aten_and_ours() -> None:
    """The names that a device lists."""
    x, y = torch.randn(3, 4), torch.randn(4, 3)
    program = capture("p", lambda: {"out": (x @ y).relu()}, inputs(x=x, y=y))
    assert program.operators() == {"aten.mm", "aten.relu"}


def test_outputs_are_named_in_the_programs_order() -> None:
    """Each binding tells the name, shape and dtype of its tensor."""
    x = torch.randn(3, 4)
    program = capture(
        "p", lambda: {"rows": x.sum(1), "largest": x.argmax(), "half": x.half()}, inputs(x=x)
    )
    by_name = dict(zip((each.name for each in program.outputs), run(program, x=x), strict=True))
    assert torch.equal(by_name["rows"], x.sum(1))
    assert torch.equal(by_name["largest"], x.argmax())
    assert by_name["half"].dtype is torch.float16
    for binding in program.outputs:
        assert tuple(by_name[binding.name].shape) == binding.shape
        assert by_name[binding.name].dtype == binding.dtype


def test_shapes_are_static() -> None:
    """Two captures of one function don't make a size symbolic."""
    for rows in (3, 5, 7):
        x = torch.randn(rows, 4)
        program = capture("p", lambda x=x: {"out": x + 1}, inputs(x=x))
        assert program.inputs[0].shape == (rows, 4)
        for node in program.graph.graph.nodes:
            value = node.meta.get("val")
            assert value is None or all(type(extent) is int for extent in value.shape)


def test_many_captures_of_one_function() -> None:
    """Each bucket is a capture; Dynamo's limit of eight variants doesn't apply."""

    def work(rows: int) -> Program:
        x = torch.randn(rows, 2)

        def forward() -> Mapping[str, torch.Tensor]:
            return {"out": x * 2}

        return capture(f"rows={rows}", forward, inputs(x=x))

    assert [work(rows).inputs[0].shape[0] for rows in range(1, 13)] == list(range(1, 13))


def test_unnamed_tensor_is_refused() -> None:
    """It would be frozen at the value of today; the message tells which one."""
    x, forgotten = torch.randn(3), torch.randn(3)
    with pytest.raises(CaptureError, match="forgotten"):
        capture("p", lambda: {"out": x + forgotten}, inputs(x=x))


def test_graph_break_is_refused() -> None:
    """What depends on a tensor's value can't be in a static graph."""
    x = torch.randn(3)

    def branch() -> Mapping[str, torch.Tensor]:
        return {"out": x + 1 if x.sum() > 0 else x - 1}

    with pytest.raises(CaptureError, match="'p' can't be captured"):
        capture("p", branch, inputs(x=x))


def test_error_of_the_function_is_told() -> None:
    """As the reason why it can't be captured."""
    x = torch.randn(3)
    with pytest.raises(CaptureError, match="can't be captured"):
        capture("p", lambda: {"out": x @ torch.zeros(5, 5)}, inputs(x=x))


def test_returned_input_is_refused() -> None:
    """An output has memory of its own; the message tells its name and what to do."""
    x = torch.randn(3)
    with pytest.raises(CaptureError, match=r"'same'.*clone"):
        capture("p", lambda: {"out": x + 1, "same": x}, inputs(x=x))


def test_one_tensor_under_two_names_is_refused() -> None:
    """The message tells both."""
    x = torch.randn(3)

    def twice() -> Mapping[str, torch.Tensor]:
        y = x + 1
        return {"one": y, "two": y}

    with pytest.raises(CaptureError, match=r"'one'.*'two'"):
        capture("p", twice, inputs(x=x))


def test_nothing_to_compute_is_refused() -> None:
    """A program without an operator."""
    with pytest.raises(CaptureError, match="computes nothing"):
        capture("p", lambda: {}, [])


def test_only_plain_functions_are_taken() -> None:
    """Capture needs a code object that it may copy."""

    class Callable:
        def __call__(self) -> Mapping[str, torch.Tensor]:
            return {}

    with pytest.raises(TypeError, match="plain function"):
        capture("p", Callable(), [])


def test_weights_of_a_module_are_named_by_their_qualified_names() -> None:
    """Parameters, buffers and plain attributes."""

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)
            self.register_buffer("offset", torch.randn(4))
            self.plain = torch.randn(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) * self.plain + self.offset

    layer, x = Layer(), torch.randn(2, 4)
    with torch.inference_mode():
        program = capture("p", lambda: {"out": layer(x)}, [*inputs(x=x), *module_tensors(layer)])
    assert set(program.weights) == {"linear.weight", "linear.bias", "offset", "plain"}
    assert set(program.named(Kind.WEIGHT)) == set(program.weights)
    torch.testing.assert_close(run(program, x=x)[0], layer(x).detach())


def test_weights_can_be_bound_anew() -> None:
    """The program has them as inputs, not as constants."""
    layer, x = torch.nn.Linear(4, 4, bias=False), torch.randn(2, 4)
    with torch.inference_mode():
        program = capture("p", lambda: {"out": layer(x)}, [*inputs(x=x), *module_tensors(layer)])
    other = torch.randn(4, 4)
    torch.testing.assert_close(run(program, x=x, weight=other)[0], x @ other.t())


def test_tied_weights_are_one_input() -> None:
    """A tensor under two names goes by the first."""
    x, weight = torch.randn(2, 4), torch.randn(4, 4)
    tied = [Named("first", Kind.WEIGHT, weight), Named("second", Kind.WEIGHT, weight)]
    program = capture("p", lambda: {"out": x @ weight @ weight.t()}, [*inputs(x=x), *tied])
    assert set(program.weights) == {"first"}


@pytest.mark.parametrize("inference", [False, True])
def test_write_in_place_stays_in_the_graph(inference: bool) -> None:
    """Even one whose result nobody uses, as a KV cache is written."""
    x, cache = torch.randn(2), torch.zeros(4)

    def forward() -> Mapping[str, torch.Tensor]:
        cache[:2].copy_(x)
        return {"out": x + 1}

    named = [*inputs(x=x), Named("cache", Kind.KV_CACHE, cache)]
    with torch.inference_mode(inference):
        program = capture("p", forward, named)
    assert torch.equal(cache, torch.zeros(4)), "tracing computed"
    fresh = torch.zeros(4)
    run(program, x=x, cache=fresh)
    assert torch.equal(fresh[:2], x)


def test_capturing_computes_nothing_and_forgets_the_model() -> None:
    """The program runs after all that it was captured from has changed."""
    scale = [2.0]
    x = torch.randn(3)
    program = capture("p", lambda: {"out": x * scale[0]}, inputs(x=x))
    scale[0] = 5.0
    torch.testing.assert_close(run(program, x=x)[0], x * 2)


def test_varying_extent() -> None:
    """One program for every number of rows; the next capture of the tensor is static again."""
    x = torch.randn(8, 3)
    named = [Named("x", Kind.INPUT, x, {0: Varying("rows", 64)})]
    program = capture("p", lambda: {"out": x * x.shape[0]}, named)
    assert program.inputs[0].shape == program.outputs[0].shape == (None, 3)
    assert not program.static
    for rows in (1, 8, 64):
        other = torch.randn(rows, 3)
        torch.testing.assert_close(run(program, x=other)[0], other * rows)
    assert capture("p", lambda: {"out": x * 2}, inputs(x=x)).static


def test_assumption_about_a_varying_extent_is_refused() -> None:
    """It was true of the example only."""
    x = torch.randn(8, 3)
    named = [Named("x", Kind.INPUT, x, {0: Varying("rows", 64)})]
    with pytest.raises(CaptureError, match="assumes"):
        capture("p", lambda: {"out": x * 2 if x.shape[0] > 4 else x}, named)

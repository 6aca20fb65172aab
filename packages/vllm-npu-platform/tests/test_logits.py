"""Logits by the device: the head's own, for any number of rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from vllm_npu_platform.graph.compiler import Compiler
from vllm_npu_platform.graph.logits import LogitsGraph, route_logits
from vllm_npu_platform.stats import counters as names
from vllm_npu_platform.stats.counters import Counters
from vllm_npu_platform.target import Target
from vllm_npu_runtime import device
from vllm_npu_runtime.compile_cache import CacheKey, CompileCache
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import Capabilities, CompileOptions
from vllm_npu_runtime.drivers.reference import ReferenceDriver, ReferenceExecutable
from vllm_npu_runtime.program import Program
from vllm_npu_runtime.settings import Settings

WIDTH, VOCABULARY, MOST = 16, 48, 7


class AnyRowsExecutable(ReferenceExecutable):
    """Gives its outputs in the same memory at every run, as devices do."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self._memory = torch.zeros(MOST, VOCABULARY)

    def run(self) -> Sequence[torch.Tensor]:
        (logits,) = super().run()
        assert logits.dtype is torch.float32
        rows = self._memory[: len(logits)]
        rows.copy_(logits)
        return [rows]


class AnyRowsDriver(ReferenceDriver):
    """The reference driver as one that runs any number of rows fast."""

    name = "any_rows"

    def capabilities(self, device: str) -> Capabilities:
        return replace(super().capabilities(device), dynamic_tokens=True)

    def compile(self, program: Program, device: str, options: CompileOptions) -> AnyRowsExecutable:
        return AnyRowsExecutable(program)


class Model(nn.Module):
    """The end of a model, with what Gemma does to logits."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(WIDTH, VOCABULARY).to(dtype).requires_grad_(False)

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.head(hidden) / 30.0) * 30.0


class Choosy(Model):
    """Looks at values, which no graph can."""

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().compute_logits(hidden if hidden.sum() > 0 else -hidden)


class FewRows(Model):
    """Looks at the number of rows, which no graph for any number can."""

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().compute_logits(hidden)
        return logits * 2 if len(hidden) > 3 else logits


@pytest.fixture(params=["reference", "openvino"])
def target(request: pytest.FixtureRequest) -> Target:
    if request.param == "openvino":
        pytest.importorskip("openvino")
        return Target(Settings(), device.find("openvino:CPU"))
    driver: Any = AnyRowsDriver()
    return Target(Settings(), Device(driver, driver.devices()[0]))


@pytest.fixture
def make_compiler(make_config: Callable[..., Any]) -> Callable[..., Compiler]:
    def make(
        target: Target, cache: CompileCache | None = None, dtype: torch.dtype = torch.float32
    ) -> Compiler:
        config = make_config()
        config.model_config.dtype = dtype
        config.cache_config = SimpleNamespace(cache_dtype="auto")
        return Compiler(config, target, cache)

    return make


@pytest.fixture
def route(
    target: Target, make_compiler: Callable[..., Compiler]
) -> Iterator[Callable[..., LogitsGraph]]:
    """Let the device compute a model's logits, counting from zero."""
    made: list[LogitsGraph] = []

    def make(model: Model, rows: int = MOST, cache: CompileCache | None = None) -> LogitsGraph:
        compiler = make_compiler(target, cache, model.head.weight.dtype)
        graph = route_logits("logits", model, WIDTH, rows, compiler, Counters())
        assert graph is not None
        made.append(graph)
        graph.compile()
        return graph

    yield make
    for graph in made:
        graph.close()


Route = Callable[..., LogitsGraph]


def states(rows: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WIDTH, generator=generator).to(dtype)


def by_host(model: Model, hidden: torch.Tensor) -> torch.Tensor:
    """What the model's own head gives."""
    return type(model).compute_logits(model, hidden)


def runs(graph: LogitsGraph) -> bool:
    """Whether the device computes, and not the host."""
    before = graph._counters.values.get(names.DEVICE_SECONDS, 0.0)
    graph(states(2))
    return graph._counters.values.get(names.DEVICE_SECONDS, 0.0) > before


def test_logits_are_the_heads_for_any_number_of_rows(route: Route) -> None:
    model = Model()
    graph = route(model)
    assert runs(graph)
    for rows in (1, 3, MOST, 2, 1):
        hidden = states(rows, seed=rows)
        torch.testing.assert_close(model.compute_logits(hidden), by_host(model, hidden))


def test_one_row_is_enough_for_a_graph(route: Route) -> None:
    """A model that serves one request at a time."""
    model = Model()
    assert runs(route(model, rows=1))
    torch.testing.assert_close(model.compute_logits(states(1)), by_host(model, states(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_logits_are_float32_whatever_the_models_dtype(
    dtype: torch.dtype, target: Target, route: Route
) -> None:
    if dtype not in target.device.capabilities.dtypes:
        pytest.skip(f"{target.device.name} doesn't serve {dtype}")
    model, hidden = Model(dtype), states(3, dtype)
    graph = route(model)
    logits = graph(hidden)
    assert logits.dtype is torch.float32
    exact = by_host(Model(), hidden.float())
    rough = None if dtype is torch.float32 else 0.05
    torch.testing.assert_close(logits, exact, rtol=rough, atol=rough)
    graph.close()
    assert graph(hidden).dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_states_are_not_rounded_where_the_device_computes_in_float32(
    dtype: torch.dtype, target: Target, make_compiler: Callable[..., Compiler], route: Route
) -> None:
    """They come as the arithmetic gives them, and the head reads them so."""
    can = target.device.capabilities
    if can.computes_in(dtype) is not torch.float32:
        pytest.skip(f"{target.device.name} computes {dtype} in itself")
    assert make_compiler(target, None, dtype).hidden_dtype(dtype) is torch.float32
    model, hidden = Model(dtype), states(3)
    graph = route(model)
    exact = by_host(Model(dtype).float(), hidden)
    torch.testing.assert_close(graph(hidden), exact)
    graph.close()
    rough = graph(hidden)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)
    assert not torch.allclose(rough, exact, rtol=1e-5, atol=1e-5)


def test_logits_are_the_callers_own(route: Route) -> None:
    graph = route(Model())
    first = graph(states(3))
    kept = first.clone()
    second = graph(states(3, seed=2))
    assert first.equal(kept) and not second.equal(kept)
    first.zero_()
    assert graph(states(3)).equal(kept)


def test_states_are_left_as_they_are(route: Route) -> None:
    graph, hidden = route(Model()), states(3)
    graph(hidden)
    graph(states(3, seed=2))
    assert hidden.equal(states(3))


@pytest.mark.parametrize("kind", [Choosy, FewRows])
def test_a_head_that_cannot_be_captured_stays_on_the_host(
    kind: type[Model], route: Route, caplog: pytest.LogCaptureFixture
) -> None:
    model = kind()
    with caplog.at_level(logging.WARNING, "vllm.npu"):
        graph = route(model)
    (line,) = caplog.messages
    assert line.startswith("Logits are computed on the host: Program 'logits'")
    assert not runs(graph)
    assert names.COMPILED not in graph._counters.values
    for rows in (1, 3, MOST):
        assert graph(-states(rows)).equal(by_host(model, -states(rows)))
    graph.rebind_weights()


def test_before_it_is_compiled_the_host_answers(
    target: Target, make_compiler: Callable[..., Compiler]
) -> None:
    model = Model()
    route_logits("logits", model, WIDTH, MOST, make_compiler(target), Counters())
    assert model.compute_logits(states(3)).equal(by_host(model, states(3)))


def test_a_device_that_needs_static_shapes_leaves_the_head_alone(
    make_target: Callable[..., Target], make_compiler: Callable[..., Compiler]
) -> None:
    model, compiler = Model(), make_compiler(make_target())
    assert route_logits("logits", model, WIDTH, MOST, compiler, Counters()) is None
    assert "compute_logits" not in vars(model)


def test_weights_put_in_place_of_others_are_used_once_rebound(route: Route) -> None:
    model, hidden = Model(), states(3)
    graph = route(model)
    before = graph(hidden)
    model.head.weight = nn.Parameter(model.head.weight * 2, requires_grad=False)
    graph.rebind_weights()
    after = graph(hidden)
    torch.testing.assert_close(after, by_host(model, hidden))
    assert not after.equal(before)


def test_a_closed_graph_leaves_the_answer_to_the_host(route: Route) -> None:
    model = Model()
    graph = route(model)
    graph.close()
    graph.close()
    assert not runs(graph)
    for rows in (1, MOST + 1):
        assert model.compute_logits(states(rows)).equal(by_host(model, states(rows)))
    graph.rebind_weights()


def test_compiling_and_running_are_counted(route: Route) -> None:
    counted = route(Model())._counters.values
    assert counted[names.COMPILED] == 1
    assert names.LOADED not in counted
    assert counted[names.COMPILE_SECONDS] > counted[names.DEVICE_SECONDS] > 0


@pytest.mark.parametrize("target", ["openvino"], indirect=True)
def test_a_graph_from_the_cache_is_counted_as_loaded(route: Route, tmp_path: Path) -> None:
    cache = CompileCache(tmp_path, CacheKey({"model": "acme/tiny"}))
    route(Model(), cache=cache)
    model = Model()
    counted = route(model, cache=cache)._counters.values
    assert counted[names.LOADED] == 1
    assert names.COMPILED not in counted
    torch.testing.assert_close(model.compute_logits(states(3)), by_host(model, states(3)))

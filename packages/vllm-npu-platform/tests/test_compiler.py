"""The compiler: what an earlier start compiled is loaded, and nothing else is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vllm_npu_platform.graph.compiler import Compiler
from vllm_npu_platform.target import Target
from vllm_npu_runtime import device
from vllm_npu_runtime.aside import aside
from vllm_npu_runtime.capture import Named
from vllm_npu_runtime.compile_cache import CacheKey, CompileCache
from vllm_npu_runtime.compile_cache.manifest import MANIFEST
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import CompileOptions, Executable
from vllm_npu_runtime.drivers.reference import ReferenceDriver, ReferenceExecutable
from vllm_npu_runtime.errors import CaptureError, ConfigurationError
from vllm_npu_runtime.program import Kind, Program
from vllm_npu_runtime.settings import Settings

MakeTarget = Callable[..., Target]
NAME = "tokens=4"
FILE = "graph.txt"


class KeepingDriver(ReferenceDriver):
    """The reference driver, able to save: into a file goes a number, for which it has the graph."""

    name = "keeping"

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def save(self, executable: ReferenceExecutable, directory: Path) -> bool:
        (directory / FILE).write_text(str(len(self.graphs)))
        self.graphs.append(executable.program.graph)
        return True

    def load(
        self, program: Program, device: str, directory: Path, options: CompileOptions
    ) -> ReferenceExecutable:
        graph = self.graphs[int((directory / FILE).read_text())]
        return ReferenceExecutable(replace(program, graph=graph))


class Traced:
    """A model and a function of it, which counts how often it is traced."""

    def __init__(self, weights: float = 1.0, width: int = 8) -> None:
        self.model = nn.Linear(width, 3, bias=False).requires_grad_(False)
        self.model.weight.fill_(weights)
        self.hidden = torch.arange(4.0 * width).view(4, width)
        self.times = 0

    @property
    def result(self) -> torch.Tensor:
        return self.hidden @ self.model.weight.T

    def compile(self, compiler: Compiler, name: str = NAME) -> tuple[torch.Tensor, bool]:
        """What the graph gives, and whether it was loaded."""
        executable, loaded = self.begin(compiler, name)()
        executable.bind({"hidden": self.hidden})
        (out,) = executable.run()
        return out.clone(), loaded

    def begin(self, compiler: Compiler, name: str) -> Callable[[], tuple[Executable, bool]]:
        def function() -> Mapping[str, torch.Tensor]:
            self.times += 1
            return {"out": self.model(self.hidden)}

        given = [Named("hidden", Kind.INPUT, self.hidden)]
        return compiler.begin(name, function, given, self.model)


@pytest.fixture(params=["keeping", "openvino"])
def target(request: pytest.FixtureRequest) -> Target:
    """A device whose driver saves."""
    if request.param == "openvino":
        pytest.importorskip("openvino")
        return Target(Settings(), device.find("openvino:CPU"))
    return keeping()


@pytest.fixture
def make_compiler(config: Any, tmp_path: Path) -> Callable[..., Compiler]:
    """The compiler of another start, all with one cache."""

    def make(target: Target, model: str = "acme/tiny") -> Compiler:
        return Compiler(config, target, CompileCache(tmp_path, CacheKey({"model": model})))

    return make


MakeCompiler = Callable[..., Compiler]


def keeping() -> Target:
    driver: Any = KeepingDriver()
    return Target(Settings(), Device(driver, driver.devices()[0]))


def saved(compiler: Compiler) -> Path:
    """Where the cache has the graph."""
    assert compiler.cache is not None
    found = compiler.cache.find(NAME)
    assert found is not None
    return found.directory


def test_the_next_start_loads_what_the_first_compiled(
    target: Target, make_compiler: MakeCompiler
) -> None:
    traced = Traced()
    for expected in (False, True, True):
        out, loaded = traced.compile(make_compiler(target))
        assert loaded is expected
        torch.testing.assert_close(out, traced.result)
    assert traced.times == 1


def test_a_loaded_graph_takes_the_weights_of_now(
    target: Target, make_compiler: MakeCompiler
) -> None:
    Traced().compile(make_compiler(target))
    other = Traced(weights=2.0)
    out, loaded = other.compile(make_compiler(target))
    assert loaded
    torch.testing.assert_close(out, other.result)


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_graph_is_told_of_and_compiled_anew(
    damage: str, target: Target, make_compiler: MakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    traced = Traced()
    traced.compile(make_compiler(target))
    directory = saved(make_compiler(target))
    files = [path for path in directory.iterdir() if path.name != MANIFEST]
    largest = max(files, key=lambda path: path.stat().st_size)
    if damage == "gone":
        largest.unlink()
    else:
        largest.write_bytes(bytes(largest.stat().st_size))
    caplog.clear()
    with caplog.at_level(logging.WARNING, "vllm.npu"):
        out, loaded = traced.compile(make_compiler(target))
    assert not loaded
    torch.testing.assert_close(out, traced.result)
    (line,) = caplog.messages
    assert f"{directory} is discarded: " in line and largest.name in line
    assert traced.compile(make_compiler(target))[1]


def test_a_graph_that_the_driver_refuses_is_told_of_and_compiled_anew(
    make_compiler: MakeCompiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    traced, target = Traced(), keeping()
    traced.compile(make_compiler(target))

    def load(*_arguments: object) -> None:
        raise ConfigurationError("Another compiler wrote it.")

    caplog.clear()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "vllm.npu"):
        patch.setattr(target.device.driver, "load", load)
        out, loaded = traced.compile(make_compiler(target))
    assert not loaded and out.equal(traced.result)
    (line,) = caplog.messages
    assert "discarded: Another compiler wrote it. It is compiled anew" in line
    assert traced.compile(make_compiler(target))[1]


def test_a_graph_of_a_model_with_other_weights_is_compiled_anew(
    target: Target, make_compiler: MakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    """Their names, shapes and dtypes; their values are taken from the model anyway."""
    Traced().compile(make_compiler(target))
    wider = Traced(width=16)
    with caplog.at_level(logging.WARNING, "vllm.npu"):
        out, loaded = wider.compile(make_compiler(target))
    assert not loaded
    torch.testing.assert_close(out, wider.result)
    assert "the model has other weights" in caplog.text


def test_other_graphs_and_other_configurations_are_not_mixed_up(
    make_compiler: MakeCompiler,
) -> None:
    traced, target = Traced(), keeping()
    traced.compile(make_compiler(target))
    assert not traced.compile(make_compiler(target), "tokens=8")[1]
    assert not traced.compile(make_compiler(target, "acme/other"))[1]


def test_without_a_cache_every_start_compiles(config: Any) -> None:
    traced, target = Traced(), keeping()
    for _ in range(2):
        out, loaded = traced.compile(Compiler(config, target))
        assert not loaded and out.equal(traced.result)
    assert traced.times == 2


def test_a_driver_that_cannot_save_compiles_at_every_start(
    make_compiler: MakeCompiler,
    make_target: MakeTarget,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing is left on the disk but locks, and nothing is wrong with that."""
    traced, target = Traced(), make_target()
    with caplog.at_level(logging.WARNING, "vllm.npu"):
        assert [traced.compile(make_compiler(target))[1] for _ in range(2)] == [False, False]
    assert traced.times == 2
    assert not caplog.messages
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".lock"}


def test_what_fails_to_compile_is_not_kept(make_compiler: MakeCompiler) -> None:
    traced, compiler = Traced(), make_compiler(keeping())

    def broken() -> Mapping[str, torch.Tensor]:
        return {"out": traced.hidden * traced.hidden.sum().item()}

    with pytest.raises(CaptureError):
        compiler.begin(NAME, broken, [], traced.model)
    assert compiler.cache is not None and compiler.cache.find(NAME) is None
    assert traced.compile(compiler)[0].equal(traced.result)


class AsideDriver(KeepingDriver):
    """Compiles while others go on: until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def compiles_at_once(self, device: str) -> int:
        return 3

    def begin_compile(
        self, program: Program, device: str, options: CompileOptions
    ) -> Callable[[], ReferenceExecutable]:
        def work() -> ReferenceExecutable:
            self.let.wait()
            return self.compile(program, device, options)

        return aside(work)

    def begin_load(
        self, program: Program, device: str, directory: Path, options: CompileOptions
    ) -> Callable[[], ReferenceExecutable]:
        loaded = self.load(program, device, directory, options)
        return lambda: loaded


def test_graphs_are_traced_while_the_driver_compiles_others(make_compiler: MakeCompiler) -> None:
    """They are kept as soon as they are finished, not before; the next start loads them."""
    driver, traced = AsideDriver(), Traced()
    target = Target(Settings(), Device(driver, driver.devices()[0]))
    compiler = make_compiler(target)
    assert compiler.at_once == 3
    begun = [traced.begin(compiler, name) for name in ("one", "two")]
    assert traced.times == 2
    assert compiler.cache is not None and compiler.cache.find("one") is None
    driver.let.set()
    assert [finish()[1] for finish in begun] == [False, False]
    assert compiler.cache.find("one") is not None
    again = [traced.begin(make_compiler(target), name) for name in ("one", "two")]
    assert [finish()[1] for finish in again] == [True, True]
    assert traced.times == 2


def test_drivers_that_do_not_compile_aside_make_one_at_a_time(make_compiler: MakeCompiler) -> None:
    assert make_compiler(keeping()).at_once == 1


@pytest.mark.parametrize(
    ("layout", "setting", "dtype"),
    [
        ("opaque", "auto", torch.float32),
        ("opaque", "uint8", torch.uint8),
        ("NHC", "auto", None),
        ("NHC", "float16", None),
    ],
)
def test_the_driver_is_told_the_settings(
    layout: str,
    setting: str,
    dtype: torch.dtype | None,
    config: Any,
    make_target: MakeTarget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the KV dtype only where the cache is its own; elsewhere the tensors have it."""
    settings = {"run_timeout": 2.5, "driver_options": {"threads": 3}, "kv_cache_dtype": setting}
    target, told = make_target({"kv_layout": layout}, **settings), []

    def compile(program: Program, name: str, options: CompileOptions) -> ReferenceExecutable:
        told.append((name, options))
        return ReferenceExecutable(program)

    monkeypatch.setattr(target.device.driver, "compile", compile)
    Traced().compile(Compiler(config, target))
    assert told == [("", CompileOptions(2.5, dtype, {"threads": 3}))]

"""An executable saved and loaded again, without the graph that it was compiled from."""

from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.conformance.bench import Bench, run
from vllm_npu_runtime.conformance.caches import new_cache
from vllm_npu_runtime.conformance.kernels import Options, PagedKernel, Requests
from vllm_npu_runtime.conformance.pages import Geometry, Span
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import CompileOptions, Executable
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.program import Program


@pytest.fixture
def x(finest: torch.dtype) -> torch.Tensor:
    """The input."""
    return torch.randn(4, 16).to(finest)


@pytest.fixture
def saved(bench: Bench, device: Device, x: torch.Tensor, tmp_path: Path) -> Executable:
    """An executable that lies saved in `tmp_path`."""
    weight = torch.randn(16, 16).to(x.dtype)
    executable = bench.compile(lambda: {"out": x @ weight}, {"x": x}, {"weight": weight})
    if not device.driver.save(executable, tmp_path):
        assert not list(tmp_path.iterdir()), "save said no, but left files behind"
        pytest.skip("the driver saves no executables")
    return executable


def _without_graph(program: Program) -> Program:
    empty = torch.fx.GraphModule({}, torch.fx.Graph())
    return Program(program.name, empty, program.inputs, program.outputs, program.weights)


def test_loaded_runs_like_saved(
    saved: Executable, device: Device, x: torch.Tensor, tmp_path: Path
) -> None:
    """The same results, from the files and the bindings alone."""
    program = _without_graph(saved.program)
    loaded = device.driver.load(program, device.info.name, tmp_path, CompileOptions())
    loaded.bind({"x": x})
    torch.testing.assert_close(run(loaded)["out"], run(saved)["out"])
    loaded.close()


def test_loaded_attention_runs_like_saved(
    bench: Bench, device: Device, paged: Geometry, finest: torch.dtype, tmp_path: Path
) -> None:
    """On the cache that the saved one wrote to."""
    listed = device.capabilities.kv_cache_dtypes
    kv_dtype = finest if finest in listed else listed[0]
    cache = new_cache(device, paged, finest, kv_dtype)
    kernel = PagedKernel(bench, Requests(paged, finest, kv_dtype, cache), Options())
    kernel.run(Span(0, 0, 13))
    if not device.driver.save(kernel.executable, tmp_path):
        pytest.skip("the driver saves no executables")
    program = _without_graph(kernel.executable.program)
    options = CompileOptions(kv_cache_dtype=kv_dtype)
    kernel.executable = device.driver.load(program, device.info.name, tmp_path, options)
    kernel.executable.bind({"cache": cache})
    kernel.run(Span(0, 13, 20), Span(1, 0, 3))
    kernel.executable.close()


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_files_are_refused(
    saved: Executable, device: Device, tmp_path: Path, damage: str
) -> None:
    """A file cut short or gone is an error, not a crash and not a wrong result."""
    largest = max(tmp_path.rglob("*"), key=lambda path: path.stat().st_size)
    if damage == "missing":
        largest.unlink()
    else:
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    program = _without_graph(saved.program)
    with pytest.raises(ConfigurationError):
        device.driver.load(program, device.info.name, tmp_path, CompileOptions())

"""An executable saved and loaded again, without the graph that it was compiled from."""

from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.conformance.bench import Bench, run
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

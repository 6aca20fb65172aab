"""A driver that compiles while Python goes on, and several programs at once."""

from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.conformance.bench import Bench, run
from vllm_npu_runtime.conformance.oracle import assert_close
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import CompileOptions, CompilesAside
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.program import Program


@pytest.fixture
def driver(device: Device) -> CompilesAside:
    """The driver, if it does that."""
    if not isinstance(device.driver, CompilesAside):
        pytest.skip("the driver compiles while everything else waits")
    return device.driver


def _program(bench: Bench, x: torch.Tensor) -> tuple[Program, torch.Tensor]:
    """A program with weights of its own, and what it gives."""
    weight = (torch.randn(16, 16) / 4).to(x.dtype)
    program = bench.capture(lambda: {"out": x @ weight}, {"x": x}, {"weight": weight})
    return program, x.float() @ weight.float()


def test_programs_begun_together_give_their_own_results(
    bench: Bench, driver: CompilesAside, device: Device, finest: torch.dtype
) -> None:
    """Although the next ones are captured meanwhile, and they are finished in another order."""
    x = torch.randn(4, 16).to(finest)
    name = device.info.name
    assert driver.compiles_at_once(name) >= 1
    begun = []
    for _ in range(4):
        program, expected = _program(bench, x)
        begun.append((driver.begin_compile(program, name, CompileOptions()), expected))
    for finish, expected in reversed(begun):
        executable = finish()
        executable.bind({"x": x})
        assert_close(run(executable)["out"], expected, finest)
        executable.close()


def test_saved_ones_are_loaded_together(
    bench: Bench, driver: CompilesAside, device: Device, finest: torch.dtype, tmp_path: Path
) -> None:
    """And each is the one that was saved there."""
    x = torch.randn(4, 16).to(finest)
    name = device.info.name
    begun = []
    for index in range(3):
        program, expected = _program(bench, x)
        directory = tmp_path / str(index)
        directory.mkdir()
        if not device.driver.save(bench.load(program), directory):
            pytest.skip("the driver saves no executables")
        begun.append((driver.begin_load(program, name, directory, CompileOptions()), expected))
    for finish, expected in begun:
        executable = finish()
        executable.bind({"x": x})
        assert_close(run(executable)["out"], expected, finest)
        executable.close()


def test_files_of_no_use_are_refused_before_anything_is_begun(
    bench: Bench, driver: CompilesAside, device: Device, finest: torch.dtype, tmp_path: Path
) -> None:
    """The caller captures the graph in their place, which it can't do later."""
    program, _expected = _program(bench, torch.randn(4, 16).to(finest))
    with pytest.raises(ConfigurationError):
        driver.begin_load(program, device.info.name, tmp_path, CompileOptions())

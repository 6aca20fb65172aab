"""A driver says who it is and what it can do, and refuses what it doesn't know."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.conformance.bench import Bench
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import (
    Capabilities,
    CompileOptions,
    Driver,
    Executable,
    KVContract,
)
from vllm_npu_runtime.errors import ConfigurationError


def test_is_a_driver(device: Device) -> None:
    """It has every method of the protocol, and the name that it was asked for by."""
    assert isinstance(device.driver, Driver)
    assert device.name.partition(":")[0] == device.driver.name


def test_version_is_stated(device: Device) -> None:
    """People see a version."""
    assert device.driver.version().strip()


def test_devices_are_distinct_and_have_memory(device: Device) -> None:
    """Devices have names of their own, and no more memory free than there is."""
    found = device.driver.devices()
    assert len({info.name for info in found}) == len(found)
    for info in found:
        assert info.description.strip()
        assert 0 <= info.free_memory <= info.total_memory


LOOKING = """
import os, sys
import torch
from vllm_npu_runtime import drivers

driver = drivers.load(sys.argv[1])

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
for info in driver.devices():
    driver.capabilities(info.name)
print(threads() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_looking_for_devices_leaves_no_thread(device: Device) -> None:
    """The process that asks is a server's, which forks its engine: threads would be lost there."""
    command = [sys.executable, "-c", LOOKING, device.driver.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) <= 0


def test_capabilities_make_sense(capabilities: Capabilities) -> None:
    """Some dtype, some cache dtype and some contract; every limit positive; no doubles."""
    for listed in (
        capabilities.dtypes,
        capabilities.kv_cache_dtypes,
        capabilities.kv_contracts,
    ):
        assert listed
        assert len(set(listed)) == len(listed)
    assert all(dtype.is_floating_point for dtype in capabilities.dtypes)
    assert all(isinstance(contract, KVContract) for contract in capabilities.kv_contracts)
    assert capabilities.block_sizes is None or all(n > 0 for n in capabilities.block_sizes)
    assert capabilities.bucket_step >= 2
    assert capabilities.max_batch_size is None or capabilities.max_batch_size > 0
    assert capabilities.max_tokens is None or capabilities.max_tokens > 0
    assert capabilities.operators is None or all("." in name for name in capabilities.operators)


def test_capabilities_do_not_change(device: Device) -> None:
    """Asked again, it answers the same: buckets are planned on it once."""
    assert device.capabilities == device.capabilities


def test_fingerprint_is_stable(device: Device) -> None:
    """A cache key that changed from call to call would never hit."""
    fingerprint = device.driver.fingerprint(device.info.name)
    assert fingerprint.strip()
    assert fingerprint == device.driver.fingerprint(device.info.name)


def test_unknown_device_is_refused(device: Device) -> None:
    """The error names the device that isn't there."""
    with pytest.raises(ConfigurationError, match="no_such_device"):
        device.driver.capabilities("no_such_device")


def test_unknown_option_is_refused(bench: Bench, finest: torch.dtype) -> None:
    """The error names the option, so that no misspelt one is silently ignored."""
    x = torch.randn(2, 2, dtype=finest)
    program = bench.capture(lambda: {"out": x + x}, {"x": x})
    with pytest.raises(ConfigurationError, match="no_such_option"):
        bench.load(program, CompileOptions(driver={"no_such_option": 1}))


def test_executable_states_its_costs(bench: Bench, finest: torch.dtype) -> None:
    """It has every method of the protocol, its program, its memory, and what the host runs."""
    x = torch.randn(4, 8, dtype=finest)
    program = bench.capture(lambda: {"out": (x @ x.t()).softmax(-1)}, {"x": x})
    executable = bench.load(program)
    assert isinstance(executable, Executable)
    assert executable.program.inputs == program.inputs
    assert executable.program.outputs == program.outputs
    assert executable.memory >= 0
    assert set(executable.host_operators) <= program.operators()

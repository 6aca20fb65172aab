"""The kit's fixtures: the device under test, its capabilities, and a bench to compile on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from vllm_npu_runtime.conformance.bench import Bench
from vllm_npu_runtime.conformance.pages import Geometry
from vllm_npu_runtime.conformance.plugin import DEVICE
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import Capabilities, KVContract

# Torch's trace records are meant for its structured log, and would bury a failure's report.
logging.getLogger("torch.__trace").propagate = False


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `dtype` once for each dtype that the device declares."""
    if "dtype" in metafunc.fixturenames:
        device = metafunc.config.stash.get(DEVICE, None)
        dtypes = device.capabilities.dtypes if device else ()
        metafunc.parametrize("dtype", dtypes, ids=[str(d).removeprefix("torch.") for d in dtypes])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> Device:
    """The device under test."""
    if DEVICE not in pytestconfig.stash:
        pytest.exit(
            "Name the device to check: --npu-device=<driver>[:<device>].",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )
    return pytestconfig.stash[DEVICE]


@pytest.fixture(scope="session")
def capabilities(device: Device) -> Capabilities:
    """What it declares."""
    return device.capabilities


@pytest.fixture
def bench(device: Device) -> Iterator[Bench]:
    """Compiles programs for the device, and closes them after the test."""
    bench = Bench(device)
    yield bench
    bench.close()


@pytest.fixture
def finest(capabilities: Capabilities) -> torch.dtype:
    """The declared dtype with the smallest rounding error, which hides the fewest mistakes."""
    return min(capabilities.dtypes, key=lambda dtype: torch.finfo(dtype).eps)


@pytest.fixture
def geometry(capabilities: Capabilities) -> Geometry:
    """Sizes of attention programs that the device can take."""
    sizes = capabilities.block_sizes
    geometry = Geometry(block_size=16 if sizes is None or 16 in sizes else sizes[0])
    if (capabilities.max_tokens or geometry.tokens) < geometry.tokens:
        pytest.skip(f"the device takes fewer than {geometry.tokens} tokens in one run")
    if (capabilities.max_batch_size or geometry.rows) < geometry.rows:
        pytest.skip(f"the device takes fewer than {geometry.rows} requests in one run")
    return geometry


@pytest.fixture
def paged(capabilities: Capabilities, geometry: Geometry) -> Geometry:
    """`geometry`, for tests of the paged contract."""
    return _require(KVContract.PAGED, capabilities, geometry)


@pytest.fixture
def gather(capabilities: Capabilities, geometry: Geometry) -> Geometry:
    """`geometry`, for tests of the gather contract."""
    return _require(KVContract.GATHER, capabilities, geometry)


def _require(contract: KVContract, capabilities: Capabilities, geometry: Geometry) -> Geometry:
    if contract not in capabilities.kv_contracts:
        pytest.skip(f"the device doesn't declare the KV contract '{contract}'")
    return geometry

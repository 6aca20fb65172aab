"""Reports on drivers, those that fail included."""

from collections.abc import Callable, Iterator

import pytest

from vllm_npu_runtime import drivers
from vllm_npu_runtime.doctor.inventory import inventory
from vllm_npu_runtime.drivers.base import Capabilities, DeviceInfo, KVContract
from vllm_npu_runtime.errors import ConfigurationError

Install = Callable[..., None]


class FakeDriver:
    name = "acme"

    def version(self) -> str:
        return "acme 7.1"

    def devices(self) -> list[DeviceInfo]:
        return [DeviceInfo("NPU", "ACME One", 2**34, 2**33, is_npu=True)]

    def capabilities(self, device: str) -> Capabilities:
        return Capabilities((), (), (KVContract.GATHER,), block_sizes=(16, 32), max_batch_size=8)


class BrokenDriver(FakeDriver):
    name = "broken"

    def devices(self) -> list[DeviceInfo]:
        raise ConfigurationError("libbroken.so is missing")


class HalfBrokenDriver(FakeDriver):
    name = "half"

    def capabilities(self, device: str) -> Capabilities:
        raise OSError("firmware too old")


class FakePoint:
    """An entry point."""

    def __init__(self, driver: type[FakeDriver]) -> None:
        self._driver = driver

    def load(self) -> type[FakeDriver]:
        return self._driver


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs drivers in place of the real ones."""

    def installed(*types: type[FakeDriver]) -> None:
        points = {each.name: FakePoint(each) for each in types}
        monkeypatch.setattr(drivers, "available", lambda: points)
        drivers.load.cache_clear()

    yield installed
    drivers.load.cache_clear()


def test_a_report_says_what_a_device_can_do(install: Install) -> None:
    install(FakeDriver)
    (driver,) = inventory(["acme"])
    (device,) = driver.devices
    assert (driver.version, driver.error) == ("acme 7.1", None)
    assert (device.name, device.description, device.is_npu) == ("acme:NPU", "ACME One", True)
    assert (device.total_memory, device.free_memory) == (2**34, 2**33)
    assert (device.kv_contracts, device.block_sizes) == (["gather"], [16, 32])
    assert (device.max_batch_size, device.max_tokens) == (8, None)


def test_a_driver_that_fails_is_reported_beside_the_others(install: Install) -> None:
    install(BrokenDriver, FakeDriver)
    broken, acme = inventory(["broken", "acme"])
    assert broken.error == "libbroken.so is missing" and not broken.devices
    assert broken.version == "acme 7.1"
    assert acme.error is None and acme.devices


def test_a_device_that_fails_is_reported_with_what_is_known(install: Install) -> None:
    install(HalfBrokenDriver)
    (device,) = inventory(["half"])[0].devices
    assert (device.error, device.description) == ("firmware too old", "ACME One")


def test_the_reference_device_is_always_there() -> None:
    if "reference" not in drivers.available():
        pytest.skip("vllm-npu-runtime isn't installed, so its drivers aren't registered")
    (device,) = inventory(["reference"])[0].devices
    assert device.dtypes == ["float32", "bfloat16", "float16"]
    assert device.kv_contracts == ["paged", "gather"]

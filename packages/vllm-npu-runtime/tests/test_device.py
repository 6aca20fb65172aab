"""Naming a device."""

import logging
from collections.abc import Callable, Sequence
from importlib.metadata import Distribution, EntryPoint
from types import SimpleNamespace

import pytest

from vllm_npu_runtime import device, drivers
from vllm_npu_runtime.device import find
from vllm_npu_runtime.drivers.base import DeviceInfo
from vllm_npu_runtime.errors import ConfigurationError


class FakeDriver:
    def __init__(self, name: str, devices: Sequence[DeviceInfo] | Exception) -> None:
        self.name = name
        self._devices = devices

    def devices(self) -> Sequence[DeviceInfo]:
        if isinstance(self._devices, Exception):
            raise self._devices
        return self._devices

    def capabilities(self, device: str) -> str:
        return f"capabilities of {device}"


class FakePoint:
    """An entry point."""

    dist = SimpleNamespace(name="acme-npu")

    def __init__(self, driver: FakeDriver | Exception) -> None:
        self._driver = driver

    def load(self) -> Callable[[], FakeDriver]:
        if isinstance(self._driver, Exception):
            raise self._driver
        driver = self._driver
        return lambda: driver


def info(name: str, is_npu: bool = False) -> DeviceInfo:
    return DeviceInfo(name, "a device", 2**30, 2**30, is_npu)


Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install drivers in place of the real ones: their devices by their names."""

    def installed(**devices: Sequence[DeviceInfo] | Exception) -> None:
        points = {
            name: FakePoint(found if _at_import(found) else FakeDriver(name, found))
            for name, found in devices.items()
        }
        monkeypatch.setattr(drivers, "available", lambda: points)
        drivers.load.cache_clear()

    yield installed
    drivers.load.cache_clear()


def _at_import(found: object) -> bool:
    return isinstance(found, ImportError | AttributeError)


def test_a_driver_alone_means_its_first_device(install: Install) -> None:
    install(acme=[info("A"), info("B")])
    assert find("acme").name == "acme:A"


def test_a_device_is_found_by_its_full_name(install: Install) -> None:
    install(acme=[info("A"), info("B")])
    assert find("acme:B").name == "acme:B"


def test_a_drivers_only_device_may_go_without_a_name(install: Install) -> None:
    install(host=[info("")])
    assert find("host").name == "host"


def test_a_device_knows_what_it_can_do(install: Install) -> None:
    install(acme=[info("A")])
    assert find("acme").capabilities == "capabilities of A"


def test_auto_takes_the_first_real_npu(install: Install) -> None:
    install(host=[info("")], acme=[info("CPU"), info("NPU", is_npu=True)])
    assert find("auto").name == "acme:NPU"


def test_auto_goes_past_a_driver_that_fails(install: Install) -> None:
    install(broken=ConfigurationError("no runtime"), acme=[info("NPU", is_npu=True)])
    assert find("auto").name == "acme:NPU"


def test_auto_never_falls_back_to_the_host_but_names_the_way_there(install: Install) -> None:
    install(host=[info("")], broken=ConfigurationError("no runtime"))
    with pytest.raises(ConfigurationError) as raised:
        find("auto")
    assert "host: no NPU; broken: no runtime" in str(raised.value)
    assert "VLLM_NPU_DEVICE=reference" in str(raised.value)


def test_the_way_to_the_host_is_openvino_where_that_finds_the_cpu(install: Install) -> None:
    install(openvino=[info("CPU")], reference=[info("")])
    with pytest.raises(ConfigurationError, match="VLLM_NPU_DEVICE=openvino:CPU"):
        find("auto")


def test_an_unknown_driver_is_refused_with_the_nearest(install: Install) -> None:
    install(acme=[info("A")])
    with pytest.raises(ConfigurationError, match="Did you mean 'acme'"):
        find("acmee:A")


def test_an_unknown_device_is_refused_with_what_is_there(install: Install) -> None:
    install(acme=[info("small"), info("large")])
    with pytest.raises(ConfigurationError, match="Known: acme:large, acme:small"):
        find("acme:smal")


def test_a_driver_without_devices_says_so(install: Install) -> None:
    install(acme=[])
    with pytest.raises(ConfigurationError, match="'acme' finds no device"):
        find("acme")


def test_a_driver_that_cannot_be_imported_names_what_to_install(install: Install) -> None:
    install(acme=ImportError("No module named 'acme_rt'"))
    with pytest.raises(ConfigurationError, match="acme_rt") as raised:
        find("acme")
    assert "pip install" in str(raised.value)


@pytest.mark.parametrize(
    ("problem", "what"),
    [
        (OSError("libacme.so.2:\n cannot open"), "can't list its devices: OSError: libacme.so.2"),
        (AttributeError("no such entry"), "can't be made: AttributeError: no such entry"),
        (ZeroDivisionError(), "can't list its devices: ZeroDivisionError"),
    ],
)
def test_a_broken_driver_is_told_of_and_the_others_are_asked(
    install: Install, caplog: pytest.LogCaptureFixture, problem: Exception, what: str
) -> None:
    """Whatever comes out of it; once, in one line, with the distribution to look at."""
    device._warn.cache_clear()
    install(acme=problem, good=[info("NPU", is_npu=True)])
    with caplog.at_level(logging.WARNING, "vllm.npu"):
        assert find("auto").name == find("auto").name == "good:NPU"
    (line,) = caplog.messages
    assert line.startswith(f"Driver 'acme' of acme-npu {what}") and "\n" not in line
    with pytest.raises(ConfigurationError, match="of acme-npu can't"):
        find("acme")


def test_a_broken_driver_alone_is_the_reason_that_auto_gives(install: Install) -> None:
    install(acme=OSError("no libacme"))
    with pytest.raises(ConfigurationError, match=r"No NPU was found .*acme-npu .*no libacme"):
        find("auto")


def test_a_vendors_package_is_what_is_to_be_installed(install: Install) -> None:
    install(acme=ImportError("No module named 'acme_rt'"))
    with pytest.raises(ConfigurationError, match="`pip install acme-npu`"):
        find("acme")


class Brought(Distribution):
    """A distribution with a driver."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def read_text(self, filename: str) -> None:
        return None

    def locate_file(self, path: object) -> None:  # type: ignore[override]
        return None


def points(*given: tuple[str, str]) -> list[EntryPoint]:
    """Drivers' entry points, by name and distribution."""
    made = []
    for name, source in given:
        point = EntryPoint(name, "vllm_npu_runtime.drivers.reference:ReferenceDriver", "group")
        vars(point).update(dist=Brought(source))
        made.append(point)
    return made


def test_two_drivers_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    brought = points(("acme", "acme-npu"), ("other", "acme-npu"), ("acme", "their-fork"))
    monkeypatch.setattr(drivers, "entry_points", lambda group: brought)
    drivers.load.cache_clear()
    with pytest.raises(ConfigurationError, match="'acme': acme-npu, their-fork"):
        drivers.load("acme")
    assert drivers.load("other").name == "reference"
    drivers.load.cache_clear()


def test_drivers_are_asked_in_the_order_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order they were installed in."""
    monkeypatch.setattr(drivers, "entry_points", lambda group: points(("b", "x"), ("a", "y")))
    assert list(drivers.available()) == ["a", "b"]

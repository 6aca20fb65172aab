"""What the doctor says of drivers and devices, which it looks for in another process."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_npu_runtime.doctor import probe as probing
from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.inventory import DriverReport
from vllm_npu_runtime.doctor.probe import Found, probe
from vllm_npu_runtime.doctor.registry import run as results_of
from vllm_npu_runtime.doctor.result import Status

from .machine import HOST, finding, setting, with_found


def test_no_driver_at_all_is_an_error(healthy: Environment) -> None:
    sick = with_found(replace(healthy, drivers=()), Found(device_error="none"))
    assert finding(sick, "drivers", Status.ERROR)


@pytest.mark.parametrize(
    ("chosen", "status"), [("acme:0", Status.ERROR), ("reference", Status.WARNING)]
)
def test_a_failing_driver_is_an_error_only_if_it_is_the_chosen_one(
    healthy: Environment, chosen: str, status: Status
) -> None:
    found = Found(drivers=[DriverReport(name="acme", error="libacme.so is missing")], device="x")
    sick = with_found(setting(healthy, VLLM_NPU_DEVICE=chosen), found)
    assert "libacme.so is missing" in finding(sick, "drivers", status).detail


def test_a_failing_device_is_a_warning(healthy: Environment) -> None:
    device = HOST.model_copy(update={"error": "firmware too old"})
    sick = with_found(healthy, Found(drivers=[DriverReport(name="acme", devices=[device])]))
    assert "firmware too old" in finding(sick, "drivers", Status.WARNING).detail


def test_a_device_that_is_not_there_is_an_error(healthy: Environment) -> None:
    sick = with_found(
        setting(healthy, VLLM_NPU_DEVICE="acme:7"), Found(device_error="Unknown device 'acme:7'.")
    )
    result = finding(sick, "device", Status.ERROR)
    assert "Unknown device 'acme:7'." in result.detail and "vllm-npu devices" in result.fix


def test_auto_without_an_npu_is_a_warning_with_the_way_to_the_host(healthy: Environment) -> None:
    variables = {n: text for n, text in healthy.variables.items() if n != "VLLM_NPU_DEVICE"}
    sick = with_found(
        replace(healthy, variables=variables), Found(device_error="No NPU was found.")
    )
    assert "export VLLM_NPU_DEVICE=reference" in finding(sick, "device", Status.WARNING).fix


@pytest.mark.parametrize(
    ("arithmetic", "formats", "said"),
    [
        ({"bfloat16": "float32", "float16": "float32"}, ["u4"], True),
        ({"bfloat16": "float32", "float16": "float32"}, [], False),
        ({"float16": "float32"}, ["u4"], False),
        ({}, ["u4"], False),
    ],
)
def test_packed_weights_are_suggested_where_there_is_no_16_bit_arithmetic(
    healthy: Environment, arithmetic: dict[str, str], formats: list[str], said: bool
) -> None:
    device = HOST.model_copy(
        update={
            "dtypes": ["float32", "bfloat16", "float16"],
            "arithmetic": arithmetic,
            "weight_formats": formats,
        }
    )
    found = Found(drivers=[DriverReport(name="acme", devices=[device])], device=HOST.name)
    told = [each for each in results_of(with_found(healthy, found)) if each.name == "device"]
    assert [each.status for each in told] == [Status.OK, Status.NOTE][: 1 + said]
    if said:
        assert "bfloat16 and float16 in float32" in told[1].detail
        assert "--quantization npu_w8a16" in told[1].fix and "npu_w4a16" in told[1].fix


FAKE_DRIVERS = """
import os, sys, time
from vllm_npu_runtime.drivers.base import Capabilities, DeviceInfo

class Good:
    name = "good"
    def version(self): return "1.0"
    def devices(self):
        print("a vendor's banner")
        return [DeviceInfo("0", "a device", 2**30, 2**29, is_npu=True)]
    def capabilities(self, device): return Capabilities((), (), ())

class Crashing(Good):
    def devices(self): os.write(2, b"segmentation fault, nearly"); os.abort()

class Hanging(Good):
    def devices(self): time.sleep(60)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Drivers `good`, `crashing` and `hanging`, in the path of other processes."""
    (tmp_path / "fakes.py").write_text(FAKE_DRIVERS)
    metadata = tmp_path / "fakes-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fakes\nVersion: 1.0\n")
    points = (f"{name.lower()} = fakes:{name}" for name in ("Good", "Crashing", "Hanging"))
    (metadata / "entry_points.txt").write_text("\n".join(["[vllm_npu.drivers]", *points]))
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    monkeypatch.setenv("PYTHONPATH", path)
    return tmp_path


def test_devices_are_found_in_another_process(installed: Path) -> None:
    found = probe(["good"], "good:0")
    assert found.device == "good:0" and found.device_error is None
    assert [each.name for each in found.drivers[0].devices] == ["good:0"]


def test_a_driver_that_crashes_the_process_is_named_and_the_others_are_found(
    installed: Path,
) -> None:
    found = probe(["good", "crashing"], "good")
    good, crashing = found.drivers
    assert good.devices and good.error is None
    assert crashing.error and "ended with SIGABRT: segmentation fault, nearly" in crashing.error
    assert found.device == "good:0"


def test_a_driver_that_hangs_is_given_up(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "SECONDS", 1)
    found = probe(["hanging"], "hanging")
    assert found.drivers[0].error and "more than 1 s" in found.drivers[0].error
    assert found.device_error and "more than 1 s" in found.device_error

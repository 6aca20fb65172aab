"""The command `vllm-npu`."""

import json

import pytest
from typer.testing import CliRunner, Result

from vllm_npu_runtime import __version__
from vllm_npu_runtime.cli.app import app
from vllm_npu_runtime.doctor.environment import Environment, Installed
from vllm_npu_runtime.doctor.inventory import DeviceReport, DriverReport
from vllm_npu_runtime.doctor.probe import Found

ACME = DriverReport(
    name="acme",
    version="acme 7.1",
    devices=[
        DeviceReport(
            name="acme:NPU",
            description="ACME One",
            is_npu=True,
            total_memory=2**34,
            free_memory=2**33,
            shares_host_memory=False,
            dtypes=["bfloat16", "float16"],
            arithmetic={"float16": "float32"},
            kv_contracts=["gather"],
        )
    ],
)


@pytest.fixture
def variables() -> dict[str, str]:
    """Those of the invented environment."""
    return {"VLLM_NPU_DEVICE": "acme"}


@pytest.fixture
def found() -> Found:
    """The devices there."""
    return Found(drivers=[ACME], device="acme:NPU")


@pytest.fixture(autouse=True)
def environment(
    variables: dict[str, str], found: Found, monkeypatch: pytest.MonkeyPatch
) -> Environment:
    """An invented environment, with the runtime alone, that commands take for the current one."""
    invented = Environment(
        variables=variables,
        installed={"vllm-npu-runtime": Installed("0.1.0"), "torch": Installed("2.13.0+cpu")},
        drivers=("acme",),
        find=lambda: found,
    )
    monkeypatch.setattr(Environment, "current", lambda: invented)
    return invented


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_it_prints_its_version() -> None:
    assert run("--version").output == f"vllm-npu {__version__}\n"


def test_without_a_command_it_lists_them() -> None:
    output = run().output
    assert "devices" in output and "doctor" in output


def test_an_unknown_command_is_refused() -> None:
    result = run("frobnicate")
    assert result.exit_code == 2 and "No such command 'frobnicate'" in result.output


def test_devices_are_a_table() -> None:
    result = run("devices")
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if "acme:NPU" in line)
    for cell in (
        "ACME One",
        "16.0 GiB",
        "8.0 GiB",
        "yes",
        "bfloat16, float16 (computed in float32)",
        "gather",
        "acme 7.1",
    ):
        assert cell in row


def test_devices_end_with_the_one_that_vllm_would_take(found: Found) -> None:
    assert "VLLM_NPU_DEVICE=acme: vLLM runs on acme:NPU." in run("devices").stdout
    found.device, found.device_error = None, "No NPU was found."
    assert "VLLM_NPU_DEVICE=acme: No NPU was found." in run("devices").stdout


def test_devices_are_json_and_nothing_but_json() -> None:
    (driver,) = json.loads(run("devices", "--json").stdout)["drivers"]
    (device,) = driver["devices"]
    assert (driver["name"], driver["version"], driver["error"]) == ("acme", "acme 7.1", None)
    assert (device["name"], device["is_npu"]) == ("acme:NPU", True)
    assert (device["total_memory"], device["free_memory"]) == (2**34, 2**33)


def test_a_failing_driver_shows_its_error_beside_the_devices_of_others(found: Found) -> None:
    found.drivers += [
        DriverReport(name="broken", error="libbroken.so is missing"),
        DriverReport(name="empty"),
    ]
    result = run("devices")
    assert result.exit_code == 0
    for text in ("libbroken.so is missing", "finds no device", "acme:NPU"):
        assert text in result.stdout


def test_no_device_at_all_is_a_failure(found: Found) -> None:
    found.drivers = [DriverReport(name="empty")]
    assert run("devices").exit_code == 1


def test_the_doctor_ends_well_where_nothing_is_wrong() -> None:
    result = run("doctor")
    assert result.exit_code == 0 and result.stdout.endswith("Nothing wrong.\n")


def test_the_doctor_says_what_is_wrong_and_how_to_mend_it(variables: dict[str, str]) -> None:
    variables["VLLM_NPU_STRICT"] = "maybe"
    variables["VLLM_TARGET_DEVICE"] = "cpu"
    result = run("doctor")
    assert result.exit_code == 1
    assert "VLLM_NPU_STRICT='maybe': must be true or false." in result.stdout
    assert "fix: `unset VLLM_TARGET_DEVICE`" in result.stdout
    assert result.stdout.endswith("2 errors.\n")


def test_the_doctors_json_is_nothing_but_json(variables: dict[str, str]) -> None:
    variables["VLLM_NPU_STRICT"] = "maybe"
    result = run("doctor", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (found["version"], found["ok"]) == (__version__, False)
    (wrong,) = (each for each in found["checks"] if each["status"] == "error")
    assert wrong["name"] == "settings" and wrong["detail"] and wrong["fix"]


def test_the_doctors_report_is_markdown() -> None:
    result = run("doctor", "--report")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"### vllm-npu {__version__}\n")
    assert "| python | ok | 3.11.0 |" in result.stdout


def test_two_formats_at_once_are_refused() -> None:
    result = run("doctor", "--json", "--report")
    assert result.exit_code == 2 and "exclude each other" in result.output

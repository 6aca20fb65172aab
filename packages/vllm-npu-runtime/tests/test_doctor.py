"""What the doctor notices. Each test invents an environment with one thing wrong."""

import os
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint, PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vllm_npu_runtime.doctor import probe as probing
from vllm_npu_runtime.doctor import registry
from vllm_npu_runtime.doctor.environment import Environment, Installed
from vllm_npu_runtime.doctor.inventory import DeviceReport, DriverReport
from vllm_npu_runtime.doctor.probe import Found, probe
from vllm_npu_runtime.doctor.redaction import without_secrets, without_whereabouts
from vllm_npu_runtime.doctor.report import markdown
from vllm_npu_runtime.doctor.result import Result, Status
from vllm_npu_runtime.doctor.supported import PYTHON, TABLE, row_for

OURS = frozenset({"vllm-npu-runtime", "vllm-npu-platform"})
HOST = DeviceReport(
    name="reference",
    description="host",
    is_npu=False,
    total_memory=2**33,
    free_memory=2**32,
    shares_host_memory=True,
)


def plugin(name: str, group: str = "vllm.general_plugins", value: str = "other:f") -> EntryPoint:
    return EntryPoint(name, value, group)


PLATFORM = plugin("npu", "vllm.platform_plugins", "vllm_npu_platform:register")
EXPLAINER = plugin("npu_stats", "vllm.platform_plugins", "vllm_npu_platform:explain_filter")
STATISTICS = plugin("npu_stats", "vllm.stat_logger_plugins", "vllm_npu_platform.stats:Logger")


@pytest.fixture
def healthy(tmp_path: Path) -> Environment:
    """Nothing wrong."""
    found = Found(
        drivers=[DriverReport(name="reference", version="1", devices=[HOST])], device="reference"
    )
    return Environment(
        variables={
            "VLLM_NPU_DEVICE": "reference",
            "VLLM_CACHE_ROOT": str(tmp_path),
            "OMP_WAIT_POLICY": "passive",
        },
        python="3.11.7",
        installed={
            "vllm-npu-runtime": Installed("0.1.0"),
            "vllm-npu-platform": Installed("0.1.0", frozenset({"vllm-npu-runtime", "vllm"})),
            "vllm-npu": Installed("0.1.0", OURS),
            "vllm": Installed("0.32.0+empty"),
            "torch": Installed("2.13.0+cpu"),
            "numba": Installed("0.68.1"),
        },
        plugins=(PLATFORM, EXPLAINER, STATISTICS),
        drivers=("reference",),
        find=lambda: found,
    )


def having(environment: Environment, **installed: Installed | None) -> Environment:
    """With other distributions; None takes one away. Underscores stand for hyphens."""
    changed = {name.replace("_", "-"): found for name, found in installed.items()}
    everything = {**environment.installed, **changed}
    kept = {name: found for name, found in everything.items() if found}
    return replace(environment, installed=kept)


def setting(environment: Environment, **variables: str) -> Environment:
    return replace(environment, variables={**environment.variables, **variables})


def finding(environment: Environment, check: str, status: Status) -> Result:
    """The only finding of that check that is that bad."""
    results = [each for each in registry.run(environment) if each.name == check]
    matching = [each for each in results if each.status is status]
    assert len(matching) == 1, results
    return matching[0]


# The whole


def test_a_healthy_machine_has_nothing_to_mend(healthy: Environment) -> None:
    results = registry.run(healthy)
    assert {each.status for each in results} == {Status.OK}, results
    assert [each.name for each in results] == list(registry.CHECKS)


def test_all_that_is_wrong_is_found_at_once_each_with_its_fix(healthy: Environment) -> None:
    sick = having(
        setting(healthy, VLLM_PLUGINS="npu ", VLLM_NPU_STRCT="1"),
        vllm=Installed("0.31.0"),
        torch=Installed("2.12.0"),
        vllm_npu_platform=Installed("0.0.9"),
    )
    errors = [each for each in registry.run(sick) if each.status is Status.ERROR]
    assert [each.name for each in errors] == ["vllm", "torch", "packages", "settings", "plugins"]
    assert all(each.fix for each in errors)


def test_a_check_that_breaks_is_a_finding_and_stops_no_other(healthy: Environment) -> None:
    def broken() -> Found:
        raise RuntimeError("lightning")

    sick = replace(healthy, find=broken)
    assert "lightning" in finding(sick, "device", Status.ERROR).detail
    assert finding(sick, "hub", Status.OK)


def test_the_current_process_can_be_examined() -> None:
    environment = Environment.current()
    assert environment.python.startswith(f"{sys.version_info.major}.")
    assert "torch" in environment.installed
    assert environment.import_error("json") == ""
    assert "No module named 'no_such_module'" in environment.import_error("no_such_module")


# Versions


@pytest.mark.parametrize("version", ["3.10.14", "3.15.0"])
def test_a_python_outside_the_range_is_an_error(healthy: Environment, version: str) -> None:
    sick = replace(healthy, python=version)
    assert str(PYTHON) in finding(sick, "python", Status.ERROR).detail


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "0.4.3.dev", "unknown"])
def test_another_vllm_is_an_error_with_the_command_for_ours(
    healthy: Environment, version: str
) -> None:
    result = finding(having(healthy, vllm=Installed(version)), "vllm", Status.ERROR)
    assert "<0.33,>=0.32" in result.detail
    assert "VLLM_TARGET_DEVICE=empty pip install" in result.fix


def test_the_platform_without_vllm_is_an_error(healthy: Environment) -> None:
    assert finding(having(healthy, vllm=None), "vllm", Status.ERROR)


def test_the_runtime_alone_is_fine(healthy: Environment) -> None:
    alone = having(healthy, vllm=None, vllm_npu_platform=None, vllm_npu=None, numba=None)
    results = registry.run(replace(alone, plugins=()))
    assert {each.status for each in results} == {Status.OK, Status.NOTE}, results


def test_another_torch_is_an_error_that_names_the_right_one(healthy: Environment) -> None:
    result = finding(having(healthy, torch=Installed("2.12.1+cpu")), "torch", Status.ERROR)
    assert "2.13" in result.detail and "torch==2.13.0" in result.fix


@pytest.mark.parametrize(
    "torch",
    [Installed("2.13.0+cu130"), Installed("2.13.0", frozenset({"sympy", "nvidia-cudnn-cu13"}))],
)
def test_a_cuda_build_of_torch_is_noted(healthy: Environment, torch: Installed) -> None:
    assert "CUDA" in finding(having(healthy, torch=torch), "torch", Status.NOTE).detail


def test_siblings_of_different_versions_are_an_error(healthy: Environment) -> None:
    sick = having(healthy, vllm_npu_platform=Installed("0.2.0"), vllm_npu=Installed("0.3.0", OURS))
    result = finding(sick, "packages", Status.ERROR)
    assert "vllm-npu-platform 0.2.0, vllm-npu 0.3.0" in result.detail
    assert "vllm-npu-platform==0.1.0 vllm-npu==0.1.0" in result.fix


def test_a_runtime_that_is_only_on_the_path_is_a_warning(healthy: Environment) -> None:
    assert finding(having(healthy, vllm_npu_runtime=None), "packages", Status.WARNING)


def test_the_supported_table_is_what_the_runtime_requires() -> None:
    try:
        lines = requires("vllm-npu-runtime") or []
    except PackageNotFoundError:
        pytest.skip("vllm-npu-runtime runs from a directory: it has no metadata to compare with")
    torch = next(each for each in map(Requirement, lines) if each.name == "torch")
    assert torch.specifier == TABLE[0].torch
    assert row_for("0.32.1") is TABLE[0]


# The impostor


@pytest.mark.parametrize(
    ("name", "stranger"),
    [
        ("vllm_npu", Installed("0.4.2", frozenset({"npu-vllm", "torch"}))),
        ("vllm_npu", Installed("0.4.2")),
        ("vllm_npu", Installed("0.4.2", OURS, owns_vllm=True)),
        ("npu_vllm", Installed("0.4.2")),
    ],
)
def test_a_stranger_under_our_name_is_an_error(
    healthy: Environment, name: str, stranger: Installed
) -> None:
    result = finding(having(healthy, **{name: stranger}), "impostor", Status.ERROR)
    assert f"{name.replace('_', '-')} 0.4.2" in result.detail
    assert "pip uninstall" in result.fix and "vllm==0.32.0" in result.fix
    assert ("overwritten" in result.detail) == stranger.owns_vllm


def test_a_strangers_version_is_not_compared_with_ours(healthy: Environment) -> None:
    sick = having(healthy, vllm_npu=Installed("0.4.2"))
    assert finding(sick, "packages", Status.OK)


# Drivers and the device


def with_found(environment: Environment, found: Found) -> Environment:
    return replace(environment, find=lambda: found)


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


# Settings and plugins


def test_a_setting_that_cannot_be_honoured_is_an_error(healthy: Environment) -> None:
    sick = setting(healthy, VLLM_NPU_STRICT="maybe", VLLM_NPU_DEVCE="sim")
    detail = finding(sick, "settings", Status.ERROR).detail
    assert "VLLM_NPU_STRICT='maybe'" in detail and "Did you mean 'VLLM_NPU_DEVICE'" in detail


@pytest.mark.parametrize("text", ["npu,npu_stats", "npu_stats,npu"])
def test_a_well_spelt_list_of_plugins_is_fine(healthy: Environment, text: str) -> None:
    assert finding(setting(healthy, VLLM_PLUGINS=text), "plugins", Status.OK)


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ("npu, npu_stats", "' npu_stats' has a blank", "npu,npu_stats"),
        ("npu,npu_stat", "no plugin is called 'npu_stat'; the nearest is 'npu_stats'", "npu_stats"),
        ("npu,xyzzy", "no plugin is called 'xyzzy'; installed: npu, npu_stats", "=npu`"),
        ("npu,", "a comma too many", "=npu`"),
    ],
)
def test_a_misspelt_list_of_plugins_is_an_error(
    healthy: Environment, text: str, said: str, fix: str
) -> None:
    result = finding(setting(healthy, VLLM_PLUGINS=text), "plugins", Status.ERROR)
    assert said in result.detail and fix in result.fix


@pytest.mark.parametrize(
    ("text", "said"), [("npu_stats", "leaves out 'npu'"), ("", "loads no plugin at all")]
)
def test_a_list_of_plugins_without_the_platform_is_a_warning(
    healthy: Environment, text: str, said: str
) -> None:
    result = finding(setting(healthy, VLLM_PLUGINS=text), "plugins", Status.WARNING)
    assert said in result.detail


def test_a_list_of_plugins_without_the_statistics_is_noted(healthy: Environment) -> None:
    result = finding(setting(healthy, VLLM_PLUGINS="npu"), "plugins", Status.NOTE)
    assert "npu,npu_stats" in result.fix


def test_a_list_that_names_a_platform_that_is_not_installed_is_an_error(
    healthy: Environment,
) -> None:
    sick = setting(replace(healthy, plugins=()), VLLM_PLUGINS="npu")
    assert "vllm-npu-platform" in finding(sick, "plugins", Status.ERROR).fix


def test_plugins_of_every_group_count_as_known(healthy: Environment) -> None:
    more = replace(healthy, plugins=(*healthy.plugins, plugin("x", "vllm.endpoint_plugins")))
    assert finding(setting(more, VLLM_PLUGINS="npu,npu_stats,x"), "plugins", Status.OK)


@pytest.fixture
def rivalled(healthy: Environment) -> Environment:
    rival = plugin("rival", "vllm.platform_plugins", "rival:register")
    return replace(healthy, plugins=(*healthy.plugins, rival))


def test_two_platforms_at_once_are_an_error_with_the_list_that_keeps_ours(
    rivalled: Environment,
) -> None:
    result = finding(rivalled, "platforms", Status.ERROR)
    assert "rival" in result.detail and "VLLM_PLUGINS=npu,npu_stats`" in result.fix


def test_a_rival_that_is_filtered_out_is_noted(rivalled: Environment) -> None:
    calm = setting(rivalled, VLLM_PLUGINS="npu,npu_stats")
    assert "rival" in finding(calm, "platforms", Status.NOTE).detail


def test_a_rival_in_our_place_is_a_warning(rivalled: Environment) -> None:
    assert finding(setting(rivalled, VLLM_PLUGINS="rival"), "platforms", Status.WARNING)


def test_a_rival_of_the_same_name_is_an_error(healthy: Environment) -> None:
    rival = plugin("npu", "vllm.platform_plugins", "rival:register")
    sick = replace(healthy, plugins=(*healthy.plugins, rival))
    assert "rival:register" in finding(sick, "platforms", Status.ERROR).detail


def test_a_target_device_that_bypasses_plugins_is_an_error(healthy: Environment) -> None:
    sick = setting(healthy, VLLM_TARGET_DEVICE="cpu")
    assert "unset VLLM_TARGET_DEVICE" in finding(sick, "platforms", Status.ERROR).fix


# The rest of the machine


def test_a_torchvision_that_cannot_be_imported_is_an_error(healthy: Environment) -> None:
    problem = "RuntimeError: operator torchvision::nms does not exist"
    sick = replace(having(healthy, torchvision=Installed("0.28.0")), import_error=lambda _: problem)
    result = finding(sick, "torchvision", Status.ERROR)
    assert problem in result.detail and "pip uninstall --yes torchvision" in result.fix


def test_a_torchvision_that_works_is_fine(healthy: Environment) -> None:
    assert finding(having(healthy, torchvision=Installed("0.28.0")), "torchvision", Status.OK)


def test_vllm_without_numba_is_a_warning(healthy: Environment) -> None:
    assert "n-gram" in finding(having(healthy, numba=None), "numba", Status.WARNING).detail


def test_the_cache_directory_need_not_exist(healthy: Environment, tmp_path: Path) -> None:
    calm = setting(healthy, VLLM_CACHE_ROOT=str(tmp_path / "new" / "deep"))
    assert str(tmp_path / "new" / "deep" / "npu") in finding(calm, "cache", Status.OK).detail
    assert not (tmp_path / "new").exists()


def test_a_cache_directory_that_cannot_be_made_is_an_error(
    healthy: Environment, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    sick = setting(healthy, VLLM_CACHE_ROOT=str(tmp_path / "file"))
    assert "not a directory" in finding(sick, "cache", Status.ERROR).detail


def test_the_cache_is_where_vllm_keeps_its_own(healthy: Environment, tmp_path: Path) -> None:
    moved = replace(healthy, variables={"XDG_CACHE_HOME": str(tmp_path)})
    assert str(tmp_path / "vllm" / "npu") in finding(moved, "cache", Status.OK).detail


def test_a_full_disk_is_a_warning(healthy: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "1 MiB free" in finding(healthy, "cache", Status.WARNING).detail


def test_spinning_threads_and_an_offline_hub_are_noted(healthy: Environment) -> None:
    environment = setting(healthy, OMP_WAIT_POLICY="active", HF_HUB_OFFLINE="1")
    assert "OMP_WAIT_POLICY=passive" in finding(environment, "openmp", Status.NOTE).fix
    assert "HF_HUB_OFFLINE=1" in finding(environment, "hub", Status.NOTE).detail


# Looking for devices in another process

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


# The report


def test_the_report_holds_versions_devices_variables_and_checks(healthy: Environment) -> None:
    text = markdown(healthy, registry.run(healthy))
    for line in ("- vllm 0.32.0+empty", "  - reference: host, 8.0 GiB", "| torch | ok | 2.13.0"):
        assert line in text
    assert "`OMP_WAIT_POLICY=passive`" in text


def test_the_report_holds_only_variables_that_matter_and_no_secret(healthy: Environment) -> None:
    environment = setting(healthy, VLLM_API_KEY="s3cret", HOME="/home/x", HF_TOKEN="hf_s3cret")
    text = markdown(environment, [])
    assert "VLLM_API_KEY=<hidden>" in text
    assert "s3cret" not in text and "HOME=" not in text


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("VLLM_API_KEY", "abc", "<hidden>"),
        ("VLLM_SOME_TOKEN", "abc", "<hidden>"),
        ("VLLM_NPU_TOKEN_BUCKET_MIN", "4", "4"),
        ("VLLM_MAX_TOKENS_PER_EXPERT", "4", "4"),
        ("VLLM_NPU_DRIVER_OPTIONS", '{"api_key": "abc", "n": 1}', '{"api_key": <hidden>, "n": 1}'),
        ("VLLM_PROXY", "https://me:abc@host/", "https://<hidden>@host/"),
    ],
)
def test_secrets_are_hidden(name: str, value: str, shown: str) -> None:
    assert without_secrets(name, value) == shown


def test_homes_and_user_names_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("LOGNAME", "alice")
    text = "/home/alice/.cache, /home/bob/x, /data/alice/y, alicebot"
    assert without_whereabouts(text) == "~/.cache, /home/<user>/x, /data/<user>/y, alicebot"

"""What the doctor notices. Each test invents an environment with one thing wrong."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_npu_runtime.doctor import registry
from vllm_npu_runtime.doctor.environment import Environment, Installed
from vllm_npu_runtime.doctor.probe import Found
from vllm_npu_runtime.doctor.result import Status

from .machine import finding, having, setting


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

"""What the doctor says of installed versions, and of a stranger under our name."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement

from vllm_npu_runtime.doctor import registry
from vllm_npu_runtime.doctor.environment import Environment, Installed
from vllm_npu_runtime.doctor.result import Status
from vllm_npu_runtime.doctor.supported import PYTHON, TABLE, row_for

from .machine import OURS, finding, having


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

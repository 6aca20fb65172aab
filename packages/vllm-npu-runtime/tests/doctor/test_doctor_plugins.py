"""What the doctor says of settings, lists of plugins and rival platforms."""

from dataclasses import replace

import pytest

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Status

from .machine import finding, plugin, setting


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

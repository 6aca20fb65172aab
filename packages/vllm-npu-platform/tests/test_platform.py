"""What the platform answers when vLLM asks."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import vllm.envs
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.platforms.interface import PlatformEnum
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.attention.selector import AttentionSelectorConfig

from vllm_npu_platform.attention.backend import NPUAttentionBackend
from vllm_npu_platform.communicator import NPUCommunicator
from vllm_npu_platform.platform import NPUPlatform
from vllm_npu_platform.target import Target
from vllm_npu_platform.worker import NPUWorker
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import environment_variables

WITHOUT_CUDA = pytest.mark.skipif(
    torch.cuda.is_available(), reason="CUDA's own names are left alone where there is CUDA"
)


def test_vllm_chooses_it() -> None:
    assert isinstance(current_platform, NPUPlatform)


def test_it_is_out_of_tree_and_keeps_tensors_on_the_host() -> None:
    assert NPUPlatform._enum is PlatformEnum.OOT
    assert NPUPlatform.device_type == "cpu"
    assert NPUPlatform.dist_backend == "gloo"
    assert not NPUPlatform.is_pin_memory_available()


def test_dtypes_are_the_devices_best_first() -> None:
    assert NPUPlatform().supported_dtypes == [torch.float32, torch.bfloat16, torch.float16]


def test_name_and_memory_are_the_devices() -> None:
    assert NPUPlatform.get_device_name().startswith("host (")
    assert NPUPlatform.get_device_total_memory() == psutil.virtual_memory().total
    assert 0 <= NPUPlatform.get_current_memory_usage() <= NPUPlatform.get_device_total_memory()


def test_it_names_our_classes() -> None:
    ordinary = AttentionSelectorConfig(64, torch.float32, "auto", 16)
    backend = NPUPlatform.get_attn_backend_cls(None, ordinary)
    assert resolve_obj_by_qualname(backend) is NPUAttentionBackend
    communicator = NPUPlatform.get_device_communicator_cls()
    assert resolve_obj_by_qualname(communicator) is NPUCommunicator
    worker = VllmConfig().parallel_config.worker_cls
    assert resolve_obj_by_qualname(worker) is NPUWorker


def test_a_worker_that_the_user_chose_is_left() -> None:
    config = VllmConfig()
    config.parallel_config.worker_cls = "theirs.Worker"
    NPUPlatform.check_and_update_config(config)
    assert config.parallel_config.worker_cls == "theirs.Worker"


def test_warm_up_and_steps_run_in_inference_mode() -> None:
    with NPUPlatform.inference_mode():
        assert torch.is_inference_mode_enabled()


@pytest.fixture
def known_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's table of variables as it is before ours are in it, and no stray variables."""
    ours = set(environment_variables())
    theirs = {name: get for name, get in vllm.envs.environment_variables.items()}
    monkeypatch.setattr(
        vllm.envs,
        "environment_variables",
        {name: get for name, get in theirs.items() if name not in ours},
    )
    for name in os.environ:
        if name.startswith("VLLM_") and name not in theirs:
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("known_to_vllm")
def test_vllm_does_not_warn_of_our_variables(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in environment_variables():
        monkeypatch.setenv(name, "1")
    with caplog.at_level(logging.WARNING):
        NPUPlatform.validate_environ(hard_fail=False)
    NPUPlatform.validate_environ(hard_fail=True)
    assert caplog.messages == []


@pytest.mark.usefixtures("known_to_vllm")
def test_vllm_still_reports_a_variable_that_is_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_NPU_DEVISE", "reference")
    with pytest.raises(ValueError, match="VLLM_NPU_DEVISE"):
        NPUPlatform.validate_environ(hard_fail=True)


def config_with(section: object) -> Any:
    return SimpleNamespace(additional_config={"npu": section})


def test_settings_come_with_the_configuration() -> None:
    assert Target.of(config_with({"strict": True})).settings.strict
    assert not Target.of(config_with({})).settings.strict
    assert Target.of(SimpleNamespace(additional_config=None)).device.name == "reference"


def test_a_variable_wins_over_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_NPU_STRICT", "1")
    assert Target.of(config_with({"strict": False})).settings.strict


def test_settings_that_are_no_object_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'npu' is \['strict'\]; it must be an object"):
        Target.of(config_with(["strict"]))


@WITHOUT_CUDA
def test_cuda_names_that_vllm_uses_unasked_work_on_the_host() -> None:
    event, stream = torch.cuda.Event(), torch.cuda.current_stream()
    event.record(stream)
    stream.wait_event(event)
    event.synchronize()
    assert event.query()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.accelerator.synchronize()
    torch.accelerator.empty_cache()

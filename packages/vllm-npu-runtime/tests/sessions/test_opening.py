"""What opening refuses, and how it says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.sessions.base import Placement, Session, SessionOptions
from vllm_npu_runtime.sessions.opening import limit, open_session

Open = Callable[..., Session]


@pytest.mark.parametrize("device", [None, "auto", "openvino:CPU"])
def test_default_device(compiled: Callable[..., Artifact], device: str | None) -> None:
    """The one that it was compiled for."""
    session = open_session(compiled().directory, device, SessionOptions(1))
    assert "openvino:CPU" in session.describe()
    session.close()


def test_other_device_is_refused(compiled: Callable[..., Artifact]) -> None:
    """Both are named, and how to compile for the other. The reference and `sim` open any."""
    artifact = compiled(device="reference")
    with pytest.raises(
        ConfigurationError, match=r"for reference, and openvino:CPU .*--device openvino:CPU"
    ):
        open_session(artifact.directory, "openvino:CPU", SessionOptions(1))
    for device in ("reference", "sim:small"):
        open_session(artifact.directory, device, SessionOptions(1)).close()


def test_several_problems_are_told_at_once(opened: Open) -> None:
    """Slots, length and placement."""
    with pytest.raises(ConfigurationError) as caught:
        opened("reference", slots=9, max_length=641, placement=Placement(core_mode="global4"))
    for said in ("1 to 8", "1 to 640", "core_mode is 'global4'", "--max-model-len"):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("device", "placement", "said"),
    [
        ("reference", Placement(dev_no=(1,)), "only board 0"),
        ("openvino:CPU", Placement(dev_no=(0, 1)), "only board 0"),
        ("openvino:CPU", Placement(target_cores=("0:1",)), "target_cores"),
        ("sim:small", Placement(target_clusters=(0,)), "target_clusters"),
        ("sim:small", Placement(dev_no=(1, 1)), "once"),
    ],
)
def test_placement_is_refused(opened: Open, device: str, placement: Placement, said: str) -> None:
    """What the device's sessions don't heed, by name and value."""
    with pytest.raises(ConfigurationError, match=said):
        opened(device, placement=placement)


def test_first_board_is_every_devices(opened: Open) -> None:
    """`dev_no` of [0] changes nothing."""
    assert opened("reference", placement=Placement(dev_no=(0,))).capabilities.slots == 4


def test_core_modes() -> None:
    """A limit for each mode: the mode's, and an error for one that isn't there."""
    assert limit(3, "any") == 3
    assert limit({"single": 64, "global4": 256}, "global4") == 256
    with pytest.raises(ConfigurationError, match="Did you mean 'single'"):
        limit({"single": 64, "global4": 256}, "singel")
    with pytest.raises(ConfigurationError, match="global4, single"):
        limit({"single": 64, "global4": 256}, None)


@pytest.mark.parametrize("device", ["reference", "openvino:CPU", "sim:small"])
def test_unknown_option_is_refused(opened: Open, device: str) -> None:
    """Of the driver."""
    with pytest.raises(ConfigurationError, match="no_such"):
        opened(device, driver={"no_such": 1})


def test_rounded_activations_are_refused(opened: Open) -> None:
    """They are for graphs that vLLM brings; ignoring the option would be silence."""
    with pytest.raises(ConfigurationError, match=r"'dynamic_quantization'.*is 32.*ahead of time"):
        opened("openvino:CPU", driver={"dynamic_quantization": 32})


@pytest.mark.parametrize("device", ["reference", "sim:small"])
def test_kv_dtype_is_refused(opened: Open, device: str) -> None:
    """PyTorch's caches have the model's."""
    with pytest.raises(ConfigurationError, match="uint8"):
        opened(device, kv_cache_dtype=torch.uint8)


def test_forbidden_kv_dtype_is_refused(opened: Open) -> None:
    """What OpenVINO doesn't keep with the processor's arithmetic."""
    from vllm_npu_runtime.openvino.devices import precisions

    short = torch.bfloat16 in precisions("CPU")
    forbidden, allowed = (
        (torch.float16, "in bf16.*bf16, u8, u4")
        if short
        else (torch.bfloat16, "in f32.*f32, f16, u8, u4")
    )
    with pytest.raises(ConfigurationError, match=allowed):
        opened("openvino:CPU", dtype="bfloat16", kv_cache_dtype=forbidden)


def test_device_without_sessions_is_refused(
    compiled: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so."""
    from vllm_npu_runtime.drivers.reference import ReferenceDriver

    able = ReferenceDriver().capabilities("")
    unable = replace(able, stateful=False)
    monkeypatch.setattr(ReferenceDriver, "capabilities", lambda *_: unable)
    with pytest.raises(ConfigurationError, match="opens no artifacts"):
        open_session(compiled().directory, "reference", SessionOptions(1))


def test_damaged_artifact_is_refused(compiled: Callable[..., Artifact], tmp_path: Path) -> None:
    """Its files are checked before any of them is used."""
    from shutil import copytree

    directory = copytree(compiled().directory, tmp_path / "artifact")
    weights = directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"model\.safetensors"):
        open_session(directory, None, SessionOptions(1))


def test_one_thread(opened: Open, tokens: torch.Tensor) -> None:
    """In bfloat16 on one thread, where a fused operation of OpenVINO's would end the process."""
    from vllm_npu_runtime.sessions.base import Row

    session = opened("openvino:CPU", dtype="bfloat16", driver={"threads": 1})
    assert "1 threads" in session.describe()
    assert session.infer([Row(0, 0, tokens[:40])]).values.isfinite().all()

"""The driver lists boards, opens sessions, and refuses programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.drivers import available, load
from vllm_npu_runtime.drivers.base import CompileOptions, Driver, KVBlock, OpensSessions
from vllm_npu_runtime.drivers.mobilint import MobilintDriver
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.mobilint.config import is_mobilint
from vllm_npu_runtime.mobilint.opening import open_session
from vllm_npu_runtime.program import Program
from vllm_npu_runtime.sessions.base import Placement, SessionOptions

from .fake import Host
from .released import Released, close, prompt, row


def test_is_a_driver() -> None:
    """That opens sessions, by its entry point's name."""
    assert "mobilint" in available()
    driver = load("mobilint")
    assert isinstance(driver, Driver) and isinstance(driver, OpensSessions)


def test_boards(host: Host) -> None:
    """By number; by kind and number where several kinds are there. All are real NPUs."""
    found = MobilintDriver().devices()
    assert [(each.name, each.description, each.is_npu) for each in found] == [
        ("0", "Mobilint aries-rb", True),
        ("1", "Mobilint aries-rb", True),
    ]
    host.boards["regulus-ra"] = [0]
    names = [each.name for each in MobilintDriver().devices()]
    assert names == ["aries-rb-0", "aries-rb-1", "regulus-ra-0"]
    host.boards = {}
    assert MobilintDriver().devices() == []


def test_the_runtime_is_quiet_while_listing(host: Host) -> None:
    """It writes an error to stderr where there is no board."""
    MobilintDriver().devices()
    assert [level.name for level in host.levels] == ["Off", "Warn"]


def test_capabilities(host: Host) -> None:
    """Sessions, no programs."""
    can = MobilintDriver().capabilities("0")
    assert can.stateful and not can.opens_any
    assert (can.kv_contracts, can.kv_cache_dtypes, can.operators) == ((), (), frozenset())
    assert can.placement == {"dev_no", "core_mode", "target_cores", "target_clusters"}


def test_fingerprint(host: Host) -> None:
    """Differs between kinds of boards."""
    host.boards = {"aries-rb": [0, 1], "regulus-ra": [0]}
    of = MobilintDriver().fingerprint
    assert of("aries-rb-0") == of("aries-rb-1") != of("regulus-ra-0")
    assert "1.5.0" in of("aries-rb-0")


def test_programs_are_refused(host: Host, tmp_path: Path) -> None:
    """With the way out."""
    driver, options = MobilintDriver(), CompileOptions()
    program = Program.__new__(Program)
    block = KVBlock(1, 8, 16, torch.float32)
    for call in (
        lambda: driver.compile(program, "0", options),
        lambda: driver.load(program, "0", tmp_path, options),
        lambda: driver.kv_block_bytes("0", block, torch.float32, {}),
    ):
        with pytest.raises(ConfigurationError, match=r"Mobilint's compiler made.*openvino:CPU"):
            call()


def test_options_are_checked(host: Host) -> None:
    """Before a model is loaded."""
    MobilintDriver().check("0", torch.float32, CompileOptions(driver={"every_token": True}))
    with pytest.raises(ConfigurationError, match="Unknown option of driver 'mobilint'"):
        MobilintDriver().check("0", torch.float32, CompileOptions(driver={"threads": 4}))


def test_knows_its_directories(released: Released, tmp_path: Path) -> None:
    """By the architecture; nothing else is asked."""
    assert is_mobilint(released.directory)
    released.say(architectures=["NPULlamaForCausalLM"])
    assert not is_mobilint(released.directory)
    assert not is_mobilint(tmp_path / "none")


@pytest.mark.parametrize("device", [None, "auto", "mobilint", "mobilint:1"])
def test_opens_a_directory(device: str | None, released: Released, host: Host) -> None:
    """On the first board, or the one that is named."""
    session = open_session(released.directory, device, SessionOptions(1))
    assert [board for board, _ in host.models] == [1 if device == "mobilint:1" else 0]
    assert not session.infer([row(0, 0, [1])]).failed
    session.close()


def test_another_drivers_device(released: Released, host: Host) -> None:
    """Can't run the model."""
    with pytest.raises(ConfigurationError, match="runs on its boards alone; reference was asked"):
        open_session(released.directory, "reference", SessionOptions(1))


@pytest.mark.parametrize("boards", [(0, 1), (1, 0)])
@pytest.mark.parametrize("own", [0, 1])
def test_several_boards(boards: tuple[int, ...], own: int, released: Released, host: Host) -> None:
    """Each gets a share of the slots; `dev_no` of the model doesn't matter."""
    released.say(max_batch_size=2, dev_no=own)
    options = SessionOptions(3, placement=Placement(dev_no=boards))
    session = open_session(released.directory, None, options)
    assert sorted(board for board, _ in host.models) == [0, 0, 1, 1]
    prompts = [prompt(4 + slot, slot) for slot in range(3)]
    values = session.infer([row(slot, 0, each) for slot, each in enumerate(prompts)]).values
    for end, tokens in zip((3, 8, 14), prompts, strict=True):
        assert close(values[end], released.logits(tokens)[-1])
    session.close()
    assert not host.models


def test_several_boards_of_which_one_is_missing(released: Released, host: Host) -> None:
    """The others are freed."""
    options = SessionOptions(2, placement=Placement(dev_no=(0, 7)))
    with pytest.raises(ConfigurationError, match="Unknown device 'mobilint:7'"):
        open_session(released.directory, None, options)
    assert not host.models

"""Greedy tokens equal those of Hugging Face's `generate`, on every device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.conformance.checkpoint import Request, requests
from vllm_npu_runtime.conformance.serving import serve
from vllm_npu_runtime.sessions.base import Placement, Row, Session, SessionOptions
from vllm_npu_runtime.sessions.opening import open_session

DEVICES = ["reference", "openvino:CPU", "sim:large"]
LENGTHS = (1, 600, 2, 31, 257, 64, 9, 130, 33, 5)


@pytest.fixture(scope="module", params=["llama", "exaone4"])
def kind(request: pytest.FixtureRequest) -> str:
    """Full attention, and windows far shorter than the prompts."""
    return str(request.param)


@pytest.fixture(scope="module")
def wanted(kind: str, checkpoint: Callable[[str], Path]) -> list[Request]:
    """Prompts of 1 to 600 tokens with their answers."""
    return requests(checkpoint(kind), LENGTHS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("chunk", "slots"), [(16, 4), (64, 8), (128, 1), (128, 4)])
def test_greedy(
    opened: Callable[..., Session],
    wanted: list[Request],
    kind: str,
    device: str,
    chunk: int,
    slots: int,
) -> None:
    """Prompts in chunks mixed with single tokens; more requests than slots."""
    session = opened(device, kind, slots=slots)
    assert serve(session, wanted, chunk) == [each.answer for each in wanted]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_checkpoints_of_16_bits_computed_in_float32(
    checkpoint: Callable[[str], Path],
    kind: str,
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a processor without arithmetic of 16 bits: the tokens are those of Hugging Face in
    float32 with the same weights, and nothing is taken for what another arithmetic computed."""
    from transformers import AutoModelForCausalLM

    from vllm_npu_runtime.export.compile import compile_artifact
    from vllm_npu_runtime.openvino.processor import VARIABLE

    model = AutoModelForCausalLM.from_pretrained(checkpoint(kind), dtype=getattr(torch, dtype))
    model.save_pretrained(tmp_path / "checkpoint")
    wanted = requests(tmp_path / "checkpoint", LENGTHS)
    artifact = compile_artifact(tmp_path / "checkpoint", tmp_path / "artifact", max_model_len=640)
    assert artifact.manifest.dtype == dtype
    real = open_session(artifact.directory, None, SessionOptions(4))
    monkeypatch.setenv(VARIABLE, "float32")
    session = open_session(artifact.directory, None, SessionOptions(4))
    assert "f16 computed in f32, paged KV in" in session.describe()
    assert serve(session, wanted, 64) == [each.answer for each in wanted]
    for each in (real, session):
        each.close()
    assert (session.identity == real.identity) is (real.describe() == session.describe())


@pytest.mark.parametrize("device", DEVICES)
def test_preemption(
    opened: Callable[..., Session], wanted: list[Request], kind: str, device: str
) -> None:
    """Requests lose their slots in between, and begin anew in slots that others filled."""
    session = opened(device, kind)
    assert serve(session, wanted, 128, preempt_every=3) == [each.answer for each in wanted]


def test_several_boards(opened: Callable[..., Session], wanted: list[Request], kind: str) -> None:
    """Slots on three boards, at once."""
    session = opened("sim:large", kind, slots=7, placement=Placement(dev_no=(0, 2, 5)))
    assert serve(session, wanted, 64) == [each.answer for each in wanted]


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_packed_weights(opened: Callable[..., Session], tokens: torch.Tensor, weights: str) -> None:
    """Hidden states and logits of float32 arithmetic are float32's: only weights are rounded."""
    rows = [Row(0, 0, tokens[:100]), Row(1, 0, tokens[100:140])]
    sessions = [opened(device, weights=weights) for device in ("reference", "openvino:CPU")]
    wanted, found = (session.infer(rows).values.clone() for session in sessions)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    expected, logits = (session.logits(wanted) for session in sessions)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    unpacked = opened("reference").infer(rows).values
    assert (unpacked - wanted).abs().max() > 1e-2


def test_window_matters(opened: Callable[..., Session], wanted: list[Request], kind: str) -> None:
    """The checks above can fail: without its windows, the model answers otherwise."""
    if kind != "exaone4":
        pytest.skip("this model has no windows")
    from vllm_npu_runtime.openvino.sessions import paged

    real = paged.paged
    paged.paged = lambda model, windows: real(model, [None] * len(windows))
    try:
        session = opened("openvino:CPU", kind)
    finally:
        paged.paged = real
    assert serve(session, wanted, 64) != [each.answer for each in wanted]

"""The NPU's pipeline for language models, on the host's processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.conformance.checkpoint import requests
from vllm_npu_runtime.conformance.serving import serve
from vllm_npu_runtime.drivers.openvino import OpenVINODriver
from vllm_npu_runtime.errors import BadShapeError, ConfigurationError, DeviceError, DeviceLostError
from vllm_npu_runtime.sessions.base import Row, Session, SessionOptions

ON_HOST = {"npuw_devices": "CPU", "npuw_online_pipeline": "NONE"}
MAX_LENGTH = 200

pytestmark = pytest.mark.usefixtures("float32_through_npuw")


@pytest.fixture
def open_npu(compiled: Callable[..., Artifact]) -> Iterator[Callable[..., Session]]:
    """Opens an artifact for NPUs."""
    made: list[Session] = []

    def make(kind: str = "llama", slots: int = 1, **options: object) -> Session:
        artifact = compiled(kind, device="openvino:NPU", max_model_len=MAX_LENGTH)
        options = {"driver": ON_HOST, "max_length": MAX_LENGTH} | options
        given = SessionOptions(slots, **options)  # type: ignore[arg-type]
        made.append(OpenVINODriver().open_session(artifact.directory, "NPU", given))
        return made[-1]

    yield make
    for session in made:
        session.close()


@pytest.mark.parametrize("kind", ["llama", "exaone4"])
@pytest.mark.parametrize("chunk", [16, MAX_LENGTH])
def test_greedy(
    open_npu: Callable[..., Session], checkpoint: Callable[[str], Path], kind: str, chunk: int
) -> None:
    """Tokens equal Hugging Face's, prompts whole and in chunks, one request after another."""
    wanted = requests(checkpoint(kind), (1, 188, 2, 40, 1, 65), margin=2e-2)
    assert serve(open_npu(kind), wanted, chunk) == [each.answer for each in wanted]


def test_crop(open_npu: Callable[..., Session], tokens: torch.Tensor) -> None:
    """A row that goes on from fewer tokens is run from the first one on."""
    session = open_npu()
    wanted = session.infer([Row(0, 0, tokens[:50])]).values.clone()
    for past, end in ((40, 41), (30, 33), (20, 50), (0, 1), (1, 2)):
        values = session.infer([Row(0, past, tokens[past:end])]).values
        torch.testing.assert_close(values, wanted[past:end], rtol=1e-2, atol=1e-2)


def test_logits_of_many(open_npu: Callable[..., Session], tokens: torch.Tensor) -> None:
    """The head's static shape is no limit."""
    session = open_npu()
    hidden = session.infer([Row(0, 0, tokens[:50])]).values.clone()
    logits = session.logits(hidden)
    assert logits.shape == (50, 256)
    torch.testing.assert_close(logits[20:21], session.logits(hidden[20:21]), rtol=1e-3, atol=1e-3)
    assert session.logits(hidden[:0]).shape == (0, 256)


def test_no_snapshots(open_npu: Callable[..., Session], tokens: torch.Tensor) -> None:
    """The pipeline doesn't show keys and values."""
    session = open_npu()
    session.infer([Row(0, 0, tokens[:5])])
    assert not session.capabilities.snapshots
    with pytest.raises(ConfigurationError, match="Turn prefix reuse off"):
        session.snapshot(0, 5)


def test_failed_step_empties_the_slot(
    open_npu: Callable[..., Session], tokens: torch.Tensor
) -> None:
    """And the next request begins as ever."""
    session = open_npu()
    wanted = session.infer([Row(0, 0, tokens[:20])]).values.clone()
    run = session._runner.run  # type: ignore[attr-defined]

    def broken() -> None:
        raise DeviceError("injected")

    session._runner.run = broken  # type: ignore[attr-defined]
    output = session.infer([Row(0, 20, tokens[20:21])])
    assert list(output.failed) == [0]
    assert not output.values.any()
    session._runner.run = run  # type: ignore[attr-defined]
    with pytest.raises(BadShapeError, match="holds 0"):
        session.infer([Row(0, 20, tokens[20:21])])
    torch.testing.assert_close(session.infer([Row(0, 0, tokens[:20])]).values, wanted)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slots": 2}, "one request"),
        ({"kv_cache_dtype": torch.uint8}, "float16"),
        ({"driver": {"threads": 2}}, "threads"),
        ({"driver": {"npuw": False}}, "npuw"),
    ],
)
def test_refusals(open_npu: Callable[..., Session], options: dict[str, object], said: str) -> None:
    """What the pipeline doesn't have."""
    with pytest.raises(ConfigurationError, match=said):
        open_npu(**options)


def test_closing(open_npu: Callable[..., Session], tokens: torch.Tensor) -> None:
    """Twice, and then it is over."""
    session = open_npu()
    session.close()
    session.close()
    with pytest.raises(DeviceLostError):
        session.infer([Row(0, 0, tokens[:5])])

"""Artifacts opened on the device: slots, snapshots, refusals. For drivers that declare sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event, Thread
from types import MappingProxyType

import pytest
import torch

from vllm_npu_runtime.conformance.checkpoint import Request, requests, write
from vllm_npu_runtime.conformance.serving import feed, serve
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import Capabilities, OpensSessions
from vllm_npu_runtime.errors import BadShapeError, ConfigurationError, DeviceLostError
from vllm_npu_runtime.sessions.base import Row, Session, SessionOptions, Snapshot

LENGTHS = (1, 90, 17, 33, 64, 5)
NO_OPTIONS: Mapping[str, object] = MappingProxyType({})


class Workshop:
    """One artifact for the device, and sessions of it."""

    def __init__(self, device: Device, directory: Path, dtype: torch.dtype) -> None:
        from vllm_npu_runtime.export.compile import compile_artifact

        self._device = device
        self.checkpoint = write("llama", directory / "checkpoint")
        name = str(dtype).removeprefix("torch.")
        self.artifact = compile_artifact(
            self.checkpoint,
            directory / "artifact",
            device=device.name,
            dtype=name,
            max_model_len=128,
        )
        most = self.artifact.manifest.limits.max_batch_size
        assert isinstance(most, int)
        self.slots = min(4, most)
        self._margin = 2e-3 if dtype is torch.float32 else 5e-2
        self._open: list[Session] = []

    def open(self, driver: Mapping[str, object] = NO_OPTIONS, slots: int | None = None) -> Session:
        """A session."""
        from vllm_npu_runtime.sessions.opening import open_session

        options = SessionOptions(slots or self.slots, driver=driver)
        session = open_session(self.artifact.directory, self._device.name, options)
        self._open.append(session)
        return session

    def requests(self, lengths: tuple[int, ...] = LENGTHS) -> list[Request]:
        """Requests with their answers."""
        return requests(self.checkpoint, lengths, margin=self._margin)

    def close(self) -> None:
        """Close all sessions."""
        for session in self._open:
            session.close()
        self._open.clear()


@pytest.fixture(scope="session")
def _workshop(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    if not device.capabilities.stateful:
        pytest.skip("the device declares no sessions")
    for package in ("transformers", "openvino"):
        pytest.importorskip(package, reason=f"compiling an artifact needs {package}")
    finest = min(device.capabilities.dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    return Workshop(device, tmp_path_factory.mktemp("sessions"), finest)


@pytest.fixture
def workshop(_workshop: Workshop) -> Iterator[Workshop]:
    """The artifact, whose sessions end with the test."""
    yield _workshop
    _workshop.close()


@pytest.fixture
def session(workshop: Workshop) -> Session:
    """A session."""
    return workshop.open()


@pytest.fixture
def tokens() -> torch.Tensor:
    """Some ids."""
    return torch.randint(3, 250, (64,), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def snapshots(session: Session) -> Session:
    """A session that has snapshots, and slots to copy between."""
    if not session.capabilities.snapshots:
        pytest.skip("the session declares no snapshots")
    return session


def _at(session: Session, tokens: int) -> int:
    """The largest number of tokens, at most `tokens`, at which a copy's beginning is exact."""
    step = session.capabilities.snapshot_step
    if not step or tokens < step:
        pytest.skip("the session's snapshots are exact only whole")
    return tokens // step * step


def test_session_is_one(device: Device, session: Session, capabilities: Capabilities) -> None:
    """It has every method of the protocol, and its figures make sense."""
    assert isinstance(device.driver, OpensSessions)
    assert isinstance(session, Session)
    can = session.capabilities
    assert (can.hidden_size, can.vocab_size, can.max_length) == (64, 256, 128)
    assert session.describe().strip()
    assert session.identity.strip()
    assert session.memory > session.slot_bytes > 0


@pytest.mark.parametrize("chunk", [16, 64])
def test_greedy(workshop: Workshop, session: Session, chunk: int) -> None:
    """Tokens equal Hugging Face's, with more requests than slots and prompts in chunks."""
    wanted = workshop.requests()
    assert serve(session, wanted, chunk) == [each.answer for each in wanted]


def test_one_slot(workshop: Workshop) -> None:
    """So they do one after another."""
    wanted = workshop.requests()
    assert serve(workshop.open(slots=1), wanted, 32) == [each.answer for each in wanted]


def test_preemption(workshop: Workshop, session: Session) -> None:
    """And when requests lose their slots, and begin anew in others'."""
    wanted = workshop.requests()
    assert serve(session, wanted, 64, preempt_every=5) == [each.answer for each in wanted]


def test_embeddings_stand_for_tokens(session: Session, tokens: torch.Tensor) -> None:
    """A row of the tokens' embeddings gives what the row of tokens gives."""
    ids = tokens[:20]
    plain = session.infer([Row(0, 0, ids)]).values.clone()
    embedded = session.infer([Row(0, 0, embeddings=session.embed(ids))]).values
    assert torch.equal(plain, embedded)


def test_crop(session: Session, tokens: torch.Tensor) -> None:
    """A row that goes on from fewer tokens forgets the rest; or is refused, where declared so."""
    session.infer([Row(0, 0, tokens[:40])])
    if not session.capabilities.crops:
        with pytest.raises(BadShapeError, match="forget"):
            session.infer([Row(0, 32, tokens[32:34])])
        return
    wanted = session.infer([Row(0, 0, tokens[:34])]).values[-2:].clone()
    session.infer([Row(0, 0, tokens[:32])])
    session.infer([Row(0, 32, tokens[40:60])])
    cropped = session.infer([Row(0, 32, tokens[32:34])]).values
    torch.testing.assert_close(cropped.float(), wanted.float(), rtol=2e-2, atol=2e-2)


def test_snapshot_goes_on(snapshots: Session, tokens: torch.Tensor) -> None:
    """A slot restored whole goes on as if nothing had happened, bit by bit."""
    feed(snapshots, 0, tokens, 0, 45)
    taken = snapshots.snapshot(0, 45)
    wanted = feed(snapshots, 0, tokens, 45, 60)
    snapshots.infer([Row(0, 0, tokens.flip(0))])
    snapshots.restore(0, taken, 45)
    assert taken.nbytes > 0
    assert torch.equal(feed(snapshots, 0, tokens, 45, 60), wanted)


def test_snapshot_is_cut(snapshots: Session, tokens: torch.Tensor) -> None:
    """So does one restored to its first tokens."""
    keep = _at(snapshots, 40)
    feed(snapshots, 0, tokens, 0, keep)
    wanted = feed(snapshots, 0, tokens, keep, 60)
    taken = snapshots.snapshot(0, 60)
    snapshots.restore(0, taken, keep)
    assert torch.equal(feed(snapshots, 0, tokens, keep, 60), wanted)


def test_copy(snapshots: Session, tokens: torch.Tensor) -> None:
    """A copied slot and its source go on apart."""
    if snapshots.capabilities.slots < 2:
        pytest.skip("the session has one slot")
    feed(snapshots, 0, tokens, 0, 40)
    snapshots.copy(0, 1, 40)
    wanted = feed(snapshots, 0, tokens, 40, 60)
    feed(snapshots, 0, tokens.flip(0), 40, 50)
    assert torch.equal(feed(snapshots, 1, tokens, 40, 60), wanted)


def test_foreign_snapshot_is_refused(snapshots: Session, tokens: torch.Tensor) -> None:
    """Of another artifact or layout, and of more tokens than it holds."""
    snapshots.infer([Row(0, 0, tokens)])
    taken = snapshots.snapshot(0, 64)
    foreign = Snapshot(taken.tokens, "another", taken.parts)
    with pytest.raises(BadShapeError, match="another"):
        snapshots.restore(0, foreign, 64)
    with pytest.raises(BadShapeError, match="65"):
        snapshots.restore(0, taken, 65)
    with pytest.raises(BadShapeError, match="65"):
        snapshots.snapshot(0, 65)


def test_snapshots_are_refused_where_there_are_none(session: Session, tokens: torch.Tensor) -> None:
    """With a clear error, not with nonsense."""
    if session.capabilities.snapshots:
        pytest.skip("the session has snapshots")
    session.infer([Row(0, 0, tokens)])
    with pytest.raises(ConfigurationError):
        session.snapshot(0, 64)


def test_bad_rows_are_refused(session: Session, tokens: torch.Tensor) -> None:
    """Before anything runs: the slot goes on as it was."""
    slots = session.capabilities.slots
    session.infer([Row(0, 0, tokens[:10])])
    wanted = session.infer([Row(0, 10, tokens[10:12])]).values.clone()
    session.infer([Row(0, 0, tokens[:10])])
    for row, said in (
        (Row(slots, 0, tokens[:1]), f"no slot {slots}"),
        (Row(-1, 0, tokens[:1]), "no slot -1"),
        (Row(0, 11, tokens[:1]), "holds 10"),
        (Row(0, 10, tokens.repeat(2)), "128"),
        (Row(0, 10, tokens[:0]), "no tokens"),
        (Row(0, 10), "either tokens or embeddings"),
        (Row(0, 10, tokens[:1].float()), "int64"),
        (Row(0, 10, embeddings=torch.zeros(1, 65)), "64"),
        (Row(0, 10, torch.tensor([256])), "256"),
    ):
        with pytest.raises(BadShapeError, match=said):
            session.infer([row])
    with pytest.raises(BadShapeError, match="slot 0 stands in 2 rows"):
        session.infer([Row(0, 10, tokens[:1]), Row(0, 10, tokens[:1])])
    again = session.infer([Row(0, 10, tokens[10:12])]).values
    torch.testing.assert_close(again, wanted)


def test_forgotten_slot_is_empty(session: Session, tokens: torch.Tensor) -> None:
    """A row can't go on from what was forgotten."""
    session.infer([Row(0, 0, tokens[:10])])
    session.forget(0)
    with pytest.raises(BadShapeError, match="holds 0"):
        session.infer([Row(0, 10, tokens[10:11])])


def test_unknown_option_is_refused(workshop: Workshop) -> None:
    """The error names it."""
    with pytest.raises(ConfigurationError, match="no_such_option"):
        workshop.open({"no_such_option": 1})


def test_more_slots_than_compiled_are_refused(workshop: Workshop) -> None:
    """The error names both numbers' origin."""
    with pytest.raises(ConfigurationError, match="max-batch-size"):
        workshop.open(slots=1000)


def test_closed_session_is_over(session: Session, tokens: torch.Tensor) -> None:
    """It may be closed twice; every call after that says so."""
    hidden = session.infer([Row(0, 0, tokens[:3])]).values.clone()
    session.close()
    session.close()
    for call in (
        lambda: session.infer([Row(0, 0, tokens[:3])]),
        lambda: session.logits(hidden),
        lambda: session.embed(tokens[:3]),
        lambda: session.forget(0),
    ):
        with pytest.raises(DeviceLostError):
            call()


def test_closing_from_another_thread(session: Session, tokens: torch.Tensor) -> None:
    """While steps run: the running one ends, the next is refused, and nothing crashes."""
    began, ended = Event(), []

    def work() -> None:
        try:
            while True:
                session.infer([Row(0, 0, tokens)])
                began.set()
        except Exception as error:
            ended.append(error)

    thread = Thread(target=work)
    thread.start()
    assert began.wait(30)
    session.close()
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(ended[0], DeviceLostError)

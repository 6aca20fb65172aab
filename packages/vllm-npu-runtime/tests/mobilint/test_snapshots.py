"""Caches are copied to the host and back, whole and in part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vllm_npu_runtime.errors import BadShapeError, DeviceError

from .conftest import Open
from .fake import Host
from .released import Released, close, prompt, row


@pytest.fixture
def batch(tmp_path: Path) -> Released:
    """A model for two requests, of which two copies are made."""
    return Released(tmp_path / "batch", {"max_batch_size": 4}, batches=2)


@pytest.mark.parametrize("target", [0, 1, 2, 3])
@pytest.mark.parametrize("tokens", [1, 10, 16])
def test_restores_a_prefix(target: int, tokens: int, batch: Released, open_model: Open) -> None:
    """Into any slot, of the same copy of the model or another, at any number of tokens."""
    session, source = open_model(batch, slots=4), prompt(16)
    session.infer([row(1, 0, source), row(3, 0, prompt(9, 5))])
    taken = session.snapshot(1, 16)
    session.forget(1)
    session.restore(target, taken, tokens)
    values = session.infer([row(target, tokens, [3, 1])]).values
    assert close(values[-1], batch.logits([*source[:tokens], 3, 1])[-1])


def test_is_a_copy(released: Released, open_model: Open) -> None:
    """What the slot does afterwards doesn't change it."""
    session, tokens = open_model(released), prompt(8)
    session.infer([row(0, 0, tokens)])
    taken = session.snapshot(0, 8)
    assert taken.nbytes == session.slot_bytes
    session.infer([row(0, 0, prompt(20, 3))])
    session.restore(0, taken, 8)
    assert close(session.infer([row(0, 8, [2])]).values[-1], released.logits([*tokens, 2])[-1])


@pytest.mark.parametrize("target", [0, 1, 3])
def test_copies_a_slot(target: int, batch: Released, open_model: Open) -> None:
    """The source keeps its tokens."""
    session, tokens = open_model(batch, slots=4), prompt(12)
    session.infer([row(0, 0, tokens)])
    session.copy(0, target, 7)
    values = session.infer([row(target, 7, [5])]).values
    assert close(values[-1], batch.logits([*tokens[:7], 5])[-1])
    if target:
        values = session.infer([row(0, 12, [5])]).values
        assert close(values[-1], batch.logits([*tokens, 5])[-1])


def test_another_session_of_the_same_model(released: Released, open_model: Open) -> None:
    """On another board."""
    first, second = open_model(released), open_model(released, device="1")
    tokens = prompt(6)
    first.infer([row(0, 0, tokens)])
    assert first.identity == second.identity
    second.restore(0, first.snapshot(0, 6), 6)
    assert close(second.infer([row(0, 6, [1])]).values[-1], released.logits([*tokens, 1])[-1])


@pytest.mark.parametrize("change", [{"seed": 1}, {"length": 32}, {"tail": 4}])
def test_another_model(change: dict[str, int], released: Released, open_model: Open) -> None:
    """Its snapshots are refused, whatever differs."""
    session = open_model(released)
    session.infer([row(0, 0, [1, 2])])
    taken = session.snapshot(0, 2)
    released.compile(**change)
    other = open_model(released)
    with pytest.raises(BadShapeError, match="can't be loaded"):
        other.restore(0, taken, 2)


def test_another_core_mode(released: Released, open_model: Open) -> None:
    """Nobody says that its caches lie in memory alike, so its snapshots are refused."""
    session = open_model(released)
    other = open_model(released, placement={"core_mode": "global4"})
    assert session.identity != other.identity


def test_damaged_snapshot(released: Released, open_model: Open) -> None:
    """Parts of other sizes never reach the runtime."""
    session = open_model(released)
    session.infer([row(0, 0, [1, 2])])
    taken = session.snapshot(0, 2)
    for parts in (taken.parts[:1], (taken.parts[0], taken.parts[1][:-4])):
        with pytest.raises(BadShapeError, match="parts have"):
            session.restore(0, replace(taken, parts=parts), 2)
    assert close(session.infer([row(0, 2, [3])]).values[-1], released.logits([1, 2, 3])[-1])


def test_more_than_is_held(released: Released, open_model: Open) -> None:
    """Of a slot, and of a snapshot."""
    session = open_model(released)
    session.infer([row(0, 0, [1, 2])])
    with pytest.raises(BadShapeError, match="holds 2"):
        session.snapshot(0, 3)
    with pytest.raises(BadShapeError, match="can't be restored"):
        session.restore(0, session.snapshot(0, 2), 3)


def test_failing_load(
    released: Released, open_model: Open, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaves an empty slot."""
    session = open_model(released)
    session.infer([row(0, 0, [1, 2])])
    taken = session.snapshot(0, 2)

    def fail(*_: object) -> None:
        raise RuntimeError("Driver_FailedToWriteMemoryBuffer occurred.")

    monkeypatch.setattr(host.models[0][1], "load_cache_memory", fail)
    with pytest.raises(DeviceError, match="FailedToWrite"):
        session.restore(0, taken, 2)
    with pytest.raises(BadShapeError, match="holds 0"):
        session.infer([row(0, 2, [3])])

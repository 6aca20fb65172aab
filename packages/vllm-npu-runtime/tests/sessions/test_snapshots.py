"""Slots copied to the host and back, cut, and from one to another, as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vllm_npu_runtime.conformance.serving import feed
from vllm_npu_runtime.errors import BadShapeError
from vllm_npu_runtime.sessions.base import Placement, Row, Session, SessionOptions

SESSIONS = [
    ("reference", "float32"),
    ("reference", "bfloat16"),
    ("openvino:CPU", "float32"),
    ("openvino:CPU", "bfloat16"),
    ("sim:large", "float32"),
]
Open = Callable[..., Session]


@pytest.fixture(params=SESSIONS, ids=["-".join(each) for each in SESSIONS])
def session(request: pytest.FixtureRequest, opened: Open) -> Session:
    """With sliding windows, which hide what a copy must hold all the same."""
    device, dtype = request.param
    return opened(device, "exaone4", dtype)


@pytest.mark.parametrize("keep", [1, 31, 32, 33, 64, 70])
def test_cut_anywhere(session: Session, tokens: torch.Tensor, keep: int) -> None:
    """The first tokens of a copy are bit by bit what the slot held when it held only them."""
    feed(session, 0, tokens, 0, keep)
    wanted = feed(session, 0, tokens, keep, 80)
    taken = session.snapshot(0, 80)
    feed(session, 0, tokens.flip(0), 0, 3)
    session.restore(2, taken, keep)
    assert torch.equal(feed(session, 2, tokens, keep, 80), wanted)
    session.copy(2, 1, keep)
    assert torch.equal(feed(session, 1, tokens, keep, 80), wanted)


def test_taken_of_the_first_tokens(session: Session, tokens: torch.Tensor) -> None:
    """A copy may be of fewer tokens than the slot holds."""
    feed(session, 0, tokens, 0, 80)
    taken = session.snapshot(0, 50)
    whole = session.snapshot(0, 80)
    assert taken.tokens == 50
    assert taken.nbytes < whole.nbytes
    wanted = feed(session, 0, tokens, 50, 60)
    session.restore(1, taken, 50)
    assert torch.equal(feed(session, 1, tokens, 50, 60), wanted)
    with pytest.raises(BadShapeError, match="holds 50"):
        session.restore(1, taken, 51)


def test_snapshot_stays(session: Session, tokens: torch.Tensor) -> None:
    """A copy doesn't change when its slot goes on, nor when another slot is made of it."""
    feed(session, 0, tokens, 0, 40)
    taken = session.snapshot(0, 40)
    before = [part.clone() for part in taken.parts]
    session.restore(1, taken, 40)
    feed(session, 0, tokens.flip(0), 0, 40)
    feed(session, 1, tokens.flip(0), 20, 45)
    assert all(torch.equal(a, b) for a, b in zip(before, taken.parts, strict=True))


def test_crop(session: Session, tokens: torch.Tensor) -> None:
    """A row that goes on from fewer tokens than the slot holds, behind the windows too."""
    feed(session, 0, tokens, 0, 40)
    wanted = feed(session, 0, tokens, 40, 60)
    feed(session, 0, tokens.flip(0), 60, 100)
    assert torch.equal(feed(session, 0, tokens, 40, 60), wanted)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint4])  # type: ignore[attr-defined]
def test_quantized_cache(opened: Open, tokens: torch.Tensor, dtype: torch.dtype) -> None:
    """Exact whole and at whole blocks; in between refused, as a block's scales see all of it."""
    session = opened("openvino:CPU", kv_cache_dtype=dtype)
    plain = opened("openvino:CPU")
    assert session.capabilities.snapshot_step == 32
    assert session.slot_bytes < plain.slot_bytes / 2
    for keep in (32, 64, 75):
        feed(session, 0, tokens, 0, keep)
        wanted = feed(session, 0, tokens, keep, 75 + 5)
        feed(session, 0, tokens, 0, 75)
        taken = session.snapshot(0, 75)
        session.restore(1, taken, keep)
        assert torch.equal(feed(session, 1, tokens, keep, 75 + 5), wanted)
    with pytest.raises(BadShapeError, match="multiple of 32"):
        session.restore(1, taken, 40)


def test_other_layout_is_refused(opened: Open, tokens: torch.Tensor) -> None:
    """A copy fits sessions of the same artifact, device kind and cache dtype alone."""
    first = opened("openvino:CPU")
    first.infer([Row(0, 0, tokens[:40])])
    taken = first.snapshot(0, 40)
    others = [
        opened("openvino:CPU", kv_cache_dtype=torch.uint8),
        opened("openvino:CPU", "exaone4"),
        opened("reference"),
    ]
    for other in others:
        with pytest.raises(BadShapeError, match="must be the same"):
            other.restore(0, taken, 32)
    again = opened("openvino:CPU", slots=2)
    again.restore(1, taken, 40)
    wanted = feed(first, 0, tokens, 40, 50)
    assert torch.equal(feed(again, 1, tokens, 40, 50), wanted)


def test_between_boards(opened: Open, tokens: torch.Tensor) -> None:
    """From a slot of one board to a slot of the same, and of another."""
    session = opened("sim:large", slots=4, placement=Placement(dev_no=(0, 1)))
    feed(session, 0, tokens, 0, 40)
    taken = session.snapshot(0, 40)
    session.copy(0, 1, 40)
    session.copy(0, 2, 40)
    session.restore(3, taken, 40)
    wanted = feed(session, 0, tokens, 40, 50)
    for slot in (1, 2, 3):
        assert torch.equal(feed(session, slot, tokens, 40, 50), wanted)


def test_longer_slots_are_refused(opened: Open, tokens: torch.Tensor) -> None:
    """A copy of more tokens than a slot of the session holds."""
    long = opened("openvino:CPU")
    long.infer([Row(0, 0, tokens[:100])])
    taken = long.snapshot(0, 100)
    short = opened("openvino:CPU", max_length=64)
    assert short.capabilities.max_length == 64
    with pytest.raises(BadShapeError, match="at most 64"):
        short.restore(0, taken, 100)
    short.restore(0, taken, 64)
    assert SessionOptions(1).max_length is None

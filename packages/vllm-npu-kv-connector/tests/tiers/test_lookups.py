"""A store at hand answers at once; the scheduler never waits for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from vllm.v1.kv_offload.base import OffloadKey, ReqContext

from vllm_npu_kv_connector.tiers import lookups
from vllm_npu_kv_connector.tiers.lookups import Lookups

from .primary import wait_for

HAS, LACKS = OffloadKey(b"has"), OffloadKey(b"lacks")
ONE, OTHER = ReqContext(req_id="one"), ReqContext(req_id="other")


class Clock:
    """Of the module's."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Store:
    """Has one block, and takes as long as it is told to."""

    def __init__(self, at_hand: bool, clock: Clock) -> None:
        self.at_hand = at_hand
        self.takes = 0.0
        self.asked: list[bytes] = []
        self._clock = clock

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        self._clock.now += self.takes
        self.asked += keys
        return [key == HAS for key in keys]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lookups, "time", clock)
    return clock


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(at_hand=True, clock=clock)


@pytest.fixture
def asking(store: Store) -> Iterator[Lookups]:
    made = Lookups("test", store)  # type: ignore[arg-type]
    yield made
    made.shutdown()


def answer(asking: Lookups, key: OffloadKey, context: ReqContext = ONE) -> bool:
    """That of the thread."""
    found: list[bool | None] = []

    def answered() -> bool:
        asking.flush()
        found.append(asking.lookup(key, context))
        return found[-1] is not None

    wait_for(answered)
    assert found[-1] is not None
    return found[-1]


def test_a_store_at_hand_answers_at_once(asking: Lookups) -> None:
    assert asking.lookup(HAS, ONE) is True
    assert asking.lookup(LACKS, ONE) is False


def test_it_is_asked_once_until_the_request_ends(asking: Lookups, store: Store) -> None:
    for _ in range(3):
        assert asking.lookup(HAS, ONE) is True
        assert asking.lookup(HAS, OTHER) is True
        asking.flush()
    assert store.asked == [HAS]
    asking.cleanup("one")
    asking.cleanup("other")
    assert asking.lookup(HAS, ONE) is True
    assert store.asked == [HAS, HAS]


def test_what_could_not_be_loaded_is_a_miss(asking: Lookups) -> None:
    assert asking.lookup(HAS, ONE) is True
    asking.mark_miss([HAS])
    assert asking.lookup(HAS, ONE) is False


def test_another_store_is_asked_in_the_thread(clock: Clock) -> None:
    store = Store(at_hand=False, clock=clock)
    asking = Lookups("test", store)  # type: ignore[arg-type]
    assert asking.lookup(HAS, ONE) is None
    assert asking.lookup(LACKS, ONE) is None
    assert store.asked == []
    assert answer(asking, HAS) is True
    assert answer(asking, LACKS) is False
    asking.shutdown()


def test_once_slow_it_is_asked_in_the_thread_for_a_while(
    asking: Lookups, store: Store, clock: Clock
) -> None:
    store.takes = 0.5
    assert asking.lookup(LACKS, ONE) is False
    store.takes = 0.0
    assert asking.lookup(HAS, ONE) is None
    clock.now += 60
    assert answer(asking, HAS) is True
    assert asking.lookup(OffloadKey(b"third"), OTHER) is False


def test_a_question_for_the_thread_stays_with_it(
    asking: Lookups, store: Store, clock: Clock
) -> None:
    store.takes = 0.5
    asking.lookup(LACKS, ONE)
    store.takes = 0.0
    assert asking.lookup(HAS, ONE) is None
    assert asking.lookup(OffloadKey(b"third"), ONE) is None
    clock.now += 60
    assert asking.lookup(HAS, OTHER) is None  # it isn't the newest one
    assert answer(asking, HAS, OTHER) is True
    assert answer(asking, OffloadKey(b"third")) is False
    assert store.asked == [LACKS, HAS, b"third"]

"""A store that is down is left alone, and tried again; the log says so twice."""

from __future__ import annotations

import logging

import pytest

from vllm_npu_kv_connector.tiers.breaker import CircuitBreaker
from vllm_npu_kv_connector.tiers.limited_log import LimitedLog
from vllm_npu_kv_connector.tiers.store import (
    BlockMissingError,
    Outage,
    StoreUnavailableError,
)

LOGGER = logging.getLogger("test of tiers")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Store:
    """Behind a breaker that pauses for 2, 4, 8, 8, … seconds."""

    def __init__(self, **options: object) -> None:
        self.clock = Clock()
        self.up = True
        self.calls = 0
        self.breaker = CircuitBreaker(
            "the store",
            LOGGER,
            first_pause_s=2,
            longest_pause_s=8,
            clock=self.clock,
            **options,  # type: ignore[arg-type]
        )

    def call(self, outage: Outage = Outage.TIMEOUT) -> Outage | None:
        """What it failed with, or None."""
        try:
            with self.breaker.call():
                self.calls += 1
                if not self.up:
                    raise StoreUnavailableError(outage, "no answer")
        except StoreUnavailableError as error:
            return error.outage
        return None


def test_after_a_failure_calls_pause_and_pauses_double_up_to_a_limit() -> None:
    store = Store()
    store.up = False
    assert store.call() is Outage.TIMEOUT
    for pause in (2, 4, 8, 8):
        store.clock.now += pause - 0.1
        assert store.call() is Outage.PAUSED
        store.clock.now += 0.1
        assert store.call() is Outage.TIMEOUT
    assert store.calls == 5


def test_a_call_that_works_lets_all_through_again() -> None:
    store = Store()
    store.up = False
    store.call()
    store.up = True
    store.clock.now += 2
    assert [store.call(), store.call()] == [None, None]
    store.up = False
    store.call()
    store.clock.now += 2  # The pause is short again.
    assert store.call() is Outage.TIMEOUT


def test_one_caller_tries_while_the_others_wait() -> None:
    store = Store()
    store.up = False
    store.call()
    store.up = True
    store.clock.now += 2
    with store.breaker.call():
        assert store.call() is Outage.PAUSED
    assert store.call() is None


def test_calls_that_were_under_way_as_it_failed_count_once() -> None:
    store = Store()
    store.up = False
    with pytest.raises(StoreUnavailableError), store.breaker.call():
        store.call()
        raise StoreUnavailableError(Outage.TIMEOUT, "no answer")
    store.clock.now += 2
    store.up = True
    assert store.call() is None


def test_an_error_about_a_block_is_an_answer() -> None:
    store = Store()
    store.up = False
    store.call()
    store.clock.now += 2
    with pytest.raises(BlockMissingError), store.breaker.call():
        raise BlockMissingError("no such block")
    store.up = True
    assert store.call() is None


def test_other_outages_than_its_own_do_not_stop_it() -> None:
    store = Store(opens_on=[Outage.FULL])
    store.up = False
    assert [store.call(), store.call()] == [Outage.TIMEOUT] * 2
    assert [store.call(Outage.FULL), store.call()] == [Outage.FULL, Outage.PAUSED]


def test_the_log_has_a_line_as_it_stops_and_one_as_it_works_again(caplog) -> None:
    caplog.set_level(logging.INFO)
    store = Store()
    store.up = False
    for _ in range(20):
        store.call()
        store.clock.now += 1
    store.up = True
    store.clock.now += 8
    for _ in range(3):
        store.call()
    assert [record.message[:30] for record in caplog.records] == [
        "the store: no answer. It is le",
        "the store: works again.",
    ]


def test_log_lines_of_a_kind_are_limited_and_those_left_out_counted(caplog) -> None:
    clock = Clock()
    log = LimitedLog(LOGGER, lines=2, period_s=60, clock=clock)
    for number in range(5):
        log.warning("a", "block %d", number)
    log.warning("b", "another")
    clock.now = 60
    log.warning("a", "block %d", 5)
    assert [record.message for record in caplog.records] == [
        "block 0",
        "block 1",
        "another",
        "block 5 (3 more like this were not logged)",
    ]

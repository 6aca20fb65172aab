"""A decode engine waits for KV that is on its way, and not for longer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.kv_offload.base import LookupResult, ReqContext, make_offload_key

from vllm_npu_kv_connector.disaggregation.arrivals import ANSWER, ASKED, Arrivals, answer

CHUNK, TIMEOUT = 8, 2.0
HIT, MISS, RETRY = LookupResult.HIT, LookupResult.MISS, LookupResult.RETRY


class Tier:
    """A tier that needs a second look, and remembers what it said until the request ends."""

    def __init__(self) -> None:
        self.kept: set[Any] = set()
        self.loads = True
        self._said: dict[tuple[str, Any], LookupResult] = {}

    def lookup(self, key: Any, context: ReqContext) -> LookupResult:
        place = context.req_id, key
        if place not in self._said:
            self._said[place] = HIT if key in self.kept else MISS
            return RETRY
        return self._said[place]

    def on_request_finished(self, context: ReqContext) -> None:
        self._said = {k: v for k, v in self._said.items() if k[0] != context.req_id}

    @property
    def remembers(self) -> int:
        return len(self._said)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def tier() -> Tier:
    return Tier()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def arrivals(tier: Tier, clock: Clock) -> Arrivals:
    return made([tier], clock)


def made(tiers: list[Any], clock: Clock, *windows: int | None) -> Arrivals:
    groups: Any = [
        SimpleNamespace(
            group_idx=index,
            tokens_per_chunk=CHUNK,
            hashes_per_chunk=2,
            sliding_window_size_in_chunks=window,
        )
        for index, window in enumerate(windows or (None,))
    ]
    return Arrivals(tiers, groups, TIMEOUT, clock)


def request(tokens: int = 20, params: Any = ANSWER, name: str = "one") -> Any:
    return SimpleNamespace(
        request_id=name,
        num_prompt_tokens=tokens,
        kv_transfer_params=params,
        skip_reading_prefix_cache=False,
        block_hashes=[bytes([index]) * 4 for index in range(tokens * 2 // CHUNK)],
    )


def keys(of: Any, group: int = 0) -> list[Any]:
    """Of its whole chunks; two hashes each."""
    return [make_offload_key(each, group) for each in of.block_hashes[1::2]]


def looks(arrivals: Arrivals, of: Any, clock: Clock, times: int = 5) -> list[bool]:
    result = []
    for _ in range(times):
        result.append(arrivals.awaits(of, 0))
        clock.now += 0.01
    return result


def test_it_waits_until_all_chunks_are_there(arrivals: Arrivals, tier: Tier, clock: Clock) -> None:
    one = request()
    assert all(looks(arrivals, one, clock))
    tier.kept.add(keys(one)[1])
    assert all(looks(arrivals, one, clock)), "the first chunk is missing"
    tier.kept.add(keys(one)[0])
    assert not looks(arrivals, one, clock)[-1]


def test_a_request_is_asked_about_no_more_once_it_went_on(
    arrivals: Arrivals, tier: Tier, clock: Clock
) -> None:
    one = request()
    tier.kept.update(keys(one))
    looks(arrivals, one, clock)
    tier.kept.clear()
    assert not any(looks(arrivals, one, clock))
    assert tier.remembers == 0


def test_it_is_computed_in_the_end(
    arrivals: Arrivals, tier: Tier, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    one = request()
    assert all(looks(arrivals, one, clock))
    clock.now += TIMEOUT
    assert not looks(arrivals, one, clock)[-1]
    assert "one didn't reach a shared tier within 2 s" in caplog.text
    assert tier.remembers == 0


@pytest.mark.parametrize("params", [None, {}, ASKED, {"do_remote_prefill": False}], ids=str)
def test_requests_that_were_not_prefilled_do_not_wait(
    arrivals: Arrivals, clock: Clock, params: Any
) -> None:
    assert not any(looks(arrivals, request(params=params), clock))


def test_a_prompt_without_a_whole_chunk_does_not_wait(arrivals: Arrivals, clock: Clock) -> None:
    assert not any(looks(arrivals, request(CHUNK - 1), clock))


def test_a_prompt_that_the_device_has_does_not_wait(arrivals: Arrivals) -> None:
    assert not arrivals.awaits(request(20), 16)
    assert arrivals.awaits(request(20), 8)


def test_a_request_that_reads_no_cache_does_not_wait(arrivals: Arrivals) -> None:
    one = request()
    one.skip_reading_prefix_cache = True
    assert not arrivals.awaits(one, 0)


def test_without_a_tier_to_load_from(tier: Tier, clock: Clock) -> None:
    assert not made([], clock).awaits(request(), 0)
    tier.loads = False
    assert not made([tier], clock).awaits(request(), 0)


def test_any_tier_will_do(tier: Tier, clock: Clock) -> None:
    other, one = Tier(), request()
    arrivals = made([tier, other], clock)
    other.kept.update(keys(one))
    assert not looks(arrivals, one, clock)[-1]


def test_of_a_sliding_window_only_the_end_is_needed(tier: Tier, clock: Clock) -> None:
    one = request()
    arrivals = made([tier], clock, None, 1)
    tier.kept.update(keys(one, 0))
    assert all(looks(arrivals, one, clock))
    tier.kept.add(keys(one, 1)[-1])
    assert not looks(arrivals, one, clock)[-1]


def test_an_aborted_request_is_forgotten(arrivals: Arrivals, tier: Tier, clock: Clock) -> None:
    one = request()
    arrivals.awaits(one, 0)
    assert tier.remembers
    arrivals.forget("one")
    assert not tier.remembers
    assert arrivals.awaits(one, 0), "another request of that name waits anew"


def test_the_prefill_engines_answer() -> None:
    assert answer(ASKED) == ANSWER
    assert answer(ASKED) is not ANSWER
    for params in (None, {}, ANSWER):
        assert answer(params) is None

"""A tier as vLLM drives it: looks up, stores and loads, and never raises."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from vllm.v1.kv_offload.base import LookupResult, OffloadKey, ReqContext
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
from vllm.v1.kv_offload.tiering.fs import thread_pool
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from vllm_npu_kv_connector.tiers import base
from vllm_npu_kv_connector.tiers.base import StoreTierManager
from vllm_npu_kv_connector.tiers.manager import DirectoryTier, RedisTier
from vllm_npu_kv_connector.tiers.store import (
    BlockMissingError,
    Outage,
    StoreUnavailableError,
    Tally,
)
from vllm_npu_runtime.errors import ConfigurationError

from .blocks import content, key
from .primary import BLOCK, END_OF_STEP, SPEC, finished, job, wait_for
from .redis_server import RedisServer

ROWS = 8


class Memory:
    """A store in memory that fails as it is told to."""

    def __init__(self) -> None:
        self.block_bytes = BLOCK
        self.at_hand = False
        self.tally = Tally()
        self.blocks: dict[bytes, bytes] = {}
        self.fails: dict[bytes, Exception] = {}
        self.touched: list[bytes] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.closed = False

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        return [each in self.blocks for each in keys]

    def read(self, key: bytes, into: memoryview) -> None:
        self._begin(key)
        if key not in self.blocks:
            raise BlockMissingError("none")
        into[:] = self.blocks[key]

    def write(self, key: bytes, payload: memoryview) -> int:
        self._begin(key)
        if key in self.blocks:
            return 0
        self.blocks[key] = bytes(payload)
        return len(payload)

    def remove(self, key: bytes) -> None:
        del self.blocks[key]

    def touch(self, keys: Sequence[bytes]) -> None:
        self.touched += keys

    def kept_bytes(self) -> int | None:
        return BLOCK * len(self.blocks)

    def close(self) -> None:
        self.closed = True

    def _begin(self, key: bytes) -> None:
        assert self.go_on.wait(10) and not self.closed
        if key in self.fails:
            raise self.fails[key]


@pytest.fixture
def store() -> Memory:
    return Memory()


@pytest.fixture
def rows() -> np.ndarray:
    return np.zeros((ROWS, BLOCK), dtype=np.int8)


@pytest.fixture
def tier(store: Memory, rows: np.ndarray) -> Iterator[StoreTierManager]:
    made = StoreTierManager(SPEC, memoryview(rows), "npu_test", store)
    yield made
    store.go_on.set()
    made.shutdown()


def fill(rows: np.ndarray, blocks: dict[int, int]) -> None:
    for number, row in blocks.items():
        rows[row] = np.frombuffer(content(number, BLOCK), dtype=np.int8)


def ask(tier: StoreTierManager, number: int, request: str = "request") -> LookupResult:
    """A lookup, until it is answered."""
    context, block = ReqContext(req_id=request), OffloadKey(key(number))
    answers = []

    def answered() -> bool:
        tier.on_schedule_end(END_OF_STEP)
        answers.append(tier.lookup(block, context))
        return answers[-1] is not LookupResult.RETRY

    wait_for(answered)
    return answers[-1]


def test_a_lookup_is_answered_a_step_later(store: Memory, tier: StoreTierManager) -> None:
    store.blocks[key(1)] = bytes(BLOCK)
    first = tier.lookup(OffloadKey(key(1)), ReqContext(req_id="request"))
    assert first is LookupResult.RETRY
    assert ask(tier, 1) is LookupResult.HIT
    assert ask(tier, 2) is LookupResult.MISS


def test_while_it_is_not_to_load_from_all_is_a_miss(store: Memory, tier: StoreTierManager) -> None:
    store.blocks[key(1)] = bytes(BLOCK)
    context = ReqContext(req_id="request")
    tier.loads = False
    assert tier.lookup(OffloadKey(key(1)), context) is LookupResult.MISS
    tier.on_request_finished(context)
    tier.loads = True
    assert ask(tier, 1) is LookupResult.HIT


def test_rows_are_stored_and_loaded_into_others(
    store: Memory, tier: StoreTierManager, rows: np.ndarray
) -> None:
    fill(rows, {1: 3, 2: 0, 3: 7})
    tier.submit_store(job(0, {1: 3, 2: 0, 3: 7}, is_promotion=False))
    (result,) = finished(tier)
    assert (result.job_id, result.success, result.transfer_bytes) == (0, True, 3 * BLOCK)
    assert result.transfer_time is not None and result.transfer_time > 0
    rows[:] = 0
    tier.submit_load(job(1, {3: 1, 1: 2, 2: 4}, is_promotion=True))
    (result,) = finished(tier)
    assert (result.job_id, result.success, result.successful_keys) == (1, True, None)
    wanted = np.zeros_like(rows)
    fill(wanted, {3: 1, 1: 2, 2: 4})
    assert (rows == wanted).all()


def test_what_is_there_is_not_written_again(tier: StoreTierManager, rows: np.ndarray) -> None:
    for number, count in enumerate([BLOCK, 0]):
        tier.submit_store(job(number, {1: 0}, is_promotion=False))
        (result,) = finished(tier)
        assert (result.success, result.transfer_bytes) == (True, count)


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailableError(Outage.TIMEOUT, "no answer"),
        BlockMissingError("none"),
        ZeroDivisionError("a bug"),
    ],
)
def test_what_can_not_be_loaded_is_a_miss_and_the_rest_is_kept(
    store: Memory, tier: StoreTierManager, rows: np.ndarray, error: Exception
) -> None:
    for number in (1, 2, 3):
        store.blocks[key(number)] = bytes(content(number, BLOCK))
        assert ask(tier, number) is LookupResult.HIT
    store.fails[key(2)] = error
    tier.submit_load(job(0, {1: 0, 2: 1, 3: 2}, is_promotion=True))
    (result,) = finished(tier)
    assert not result.success
    assert sorted(result.successful_keys or ()) == sorted([key(1), key(3)])
    assert result.transfer_bytes == 2 * BLOCK
    context = ReqContext(req_id="request")
    answers = [tier.lookup(OffloadKey(key(number)), context) for number in (1, 2, 3)]
    assert answers == [LookupResult.HIT, LookupResult.MISS, LookupResult.HIT]
    # The next request asks anew.
    tier.on_request_finished(context)
    store.fails.clear()
    assert ask(tier, 2, "another") is LookupResult.HIT


def test_if_nothing_can_be_loaded_nothing_succeeded(store: Memory, tier: StoreTierManager) -> None:
    tier.submit_load(job(0, {1: 0}, is_promotion=True))
    (result,) = finished(tier)
    assert (result.success, result.successful_keys) == (False, None)


def test_a_store_that_fails_is_reported_and_logged_by_nobody_else(
    store: Memory, tier: StoreTierManager, monkeypatch
) -> None:
    vllms = Mock()
    monkeypatch.setattr(thread_pool, "logger", vllms)
    store.fails[key(1)] = StoreUnavailableError(Outage.FULL, "no room")
    tier.submit_store(job(0, {1: 0, 2: 1}, is_promotion=False))
    (result,) = finished(tier)
    assert (result.success, result.successful_keys) == (False, None)
    assert list(store.blocks) == [key(2)]
    assert vllms.mock_calls == []


def test_a_job_without_blocks_is_done(tier: StoreTierManager) -> None:
    tier.submit_store(job(0, {}, is_promotion=False))
    (result,) = finished(tier)
    assert result.success


def test_nothing_blocks_the_scheduler(store: Memory, tier: StoreTierManager) -> None:
    store.go_on.clear()
    for number in range(20):
        tier.submit_store(job(number, {number: 0}, is_promotion=False))
    assert list(tier.get_finished_jobs()) == []
    store.go_on.set()
    assert sorted(result.job_id for result in finished(tier)) == list(range(20))


def test_uses_are_told_to_the_store_now_and_then(
    store: Memory, tier: StoreTierManager, monkeypatch
) -> None:
    context = ReqContext(req_id="request")
    tier.touch([OffloadKey(key(1)), OffloadKey(key(2))], context)
    tier.touch([OffloadKey(key(1))], context)
    tier.on_schedule_end(END_OF_STEP)
    assert finished(tier) == [] and store.touched == []
    monkeypatch.setattr(base, "_TOUCH_EVERY_S", 0)
    tier.on_schedule_end(END_OF_STEP)
    assert finished(tier) == []  # It is none of vLLM's jobs.
    assert store.touched == [key(1), key(2)]


def test_what_is_under_way_is_stored_before_the_end(store: Memory, rows: np.ndarray) -> None:
    tier = StoreTierManager(SPEC, memoryview(rows), "npu_test", store)
    store.go_on.clear()
    for number in range(20):
        tier.submit_store(job(number, {number: 0}, is_promotion=False))
    threading.Timer(0.1, store.go_on.set).start()
    tier.shutdown()
    assert len(store.blocks) == 20
    assert store.closed
    tier.shutdown()  # As vLLM may, after an error.


def test_the_end_does_not_wait_for_a_store_that_hangs(
    store: Memory, rows: np.ndarray, monkeypatch
) -> None:
    monkeypatch.setattr(base, "_LAST_STORES_S", 0.1)
    tier = StoreTierManager(SPEC, memoryview(rows), "npu_test", store)
    store.go_on.clear()
    for number in range(20):
        tier.submit_store(job(number, {number: 0}, is_promotion=False))
    threading.Timer(0.5, store.go_on.set).start()
    tier.shutdown()
    assert len(store.blocks) < 20


# As vLLM makes them.


def _make(rows: np.ndarray, **config: object) -> StoreTierManager:
    class_name = {"npu_fs": "DirectoryTier", "npu_redis": "RedisTier"}[str(config["type"])]
    config |= {"type": class_name, "module_path": "vllm_npu_kv_connector.tiers.manager"}
    made = SecondaryTierFactory.create_secondary_tier(config, memoryview(rows), SPEC)
    assert isinstance(made, StoreTierManager)
    return made


def _round_trip(tier: StoreTierManager, rows: np.ndarray) -> None:
    fill(rows, {1: 0, 2: 1})
    tier.submit_store(job(0, {1: 0, 2: 1}, is_promotion=False))
    assert [result.success for result in finished(tier)] == [True]
    rows[:] = 0
    assert ask(tier, 1) is LookupResult.HIT
    tier.submit_load(job(1, {1: 5, 2: 6}, is_promotion=True))
    assert [result.success for result in finished(tier)] == [True]
    wanted = np.zeros_like(rows)
    fill(wanted, {1: 5, 2: 6})
    assert (rows == wanted).all()
    tier.shutdown()


def test_vllm_makes_a_directory_tier(tmp_path: Path, rows: np.ndarray) -> None:
    tier = _make(rows, type="npu_fs", root_dir=str(tmp_path / "kv"), max_bytes=1 << 20)
    assert isinstance(tier, DirectoryTier)
    assert tier.cache_hit_source is CacheHitSource.DISK
    _round_trip(tier, rows)


def test_vllm_makes_a_redis_tier(server: RedisServer, rows: np.ndarray) -> None:
    tier = _make(rows, type="npu_redis", url=server.url, ttl=60)
    assert isinstance(tier, RedisTier)
    assert tier.cache_hit_source is CacheHitSource.EXTERNAL_UNSPECIFIED
    _round_trip(tier, rows)


def test_a_tier_that_can_not_be_used_is_refused(tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises(ConfigurationError, match="less than one block"):
        _make(rows, type="npu_fs", root_dir=str(tmp_path / "kv"), max_bytes=BLOCK)
    with pytest.raises(ConfigurationError, match="Unknown scheme"):
        _make(rows, type="npu_redis", url="http://host")

"""A Redis server keeps blocks, for engines on any machine; one that fails costs blocks."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from vllm_npu_kv_connector.tiers.block_format import HEADER_BYTES, Rejection
from vllm_npu_kv_connector.tiers.redis_connection import RedisAddress
from vllm_npu_kv_connector.tiers.redis_store import RedisStore
from vllm_npu_kv_connector.tiers.store import (
    BlockCorruptError,
    BlockMissingError,
    Event,
    Outage,
    StoreUnavailableError,
)

from .blocks import BLOCK, MODEL, OTHER_MODEL, content, key, space
from .redis_server import RedisServer

PAUSE = 0.8


def open_store(
    server: RedisServer,
    identity: str = MODEL,
    timeout: float = 1.0,
    pause: float = PAUSE,
    **options: object,
) -> RedisStore:
    return RedisStore(
        RedisAddress(server.url, timeout=timeout, connect_timeout=timeout),
        identity,
        block_bytes=BLOCK,
        first_pause_s=pause,
        longest_pause_s=2 * pause,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture
def store(server: RedisServer) -> RedisStore:
    return open_store(server)


def name(number: int, identity: str = MODEL, prefix: str = "vllm-npu") -> bytes:
    return f"{prefix}:v1:{identity}:".encode() + key(number)


def holds(store: RedisStore, number: int) -> bool:
    """Whether a block comes back as it was; fails if it comes back otherwise."""
    into = space()
    try:
        store.read(key(number), into)
    except BlockMissingError:
        return False
    assert into == content(number)
    return True


def outage_of(call: Callable[[], object]) -> Outage | None:
    """Why a call found the store unavailable; None if it didn't."""
    try:
        call()
    except StoreUnavailableError as error:
        return error.outage
    return None


def test_a_block_comes_back(store: RedisStore) -> None:
    assert store.write(key(1), content(1)) == HEADER_BYTES + BLOCK
    assert store.contains([key(1), key(2)]) == [True, False]
    assert holds(store, 1)
    assert not holds(store, 2)
    store.touch([key(1), key(2)])
    assert store.kept_bytes() is None


def test_a_block_is_written_once(store: RedisStore) -> None:
    store.write(key(1), content(1))
    assert store.write(key(1), content(1)) == 0


def test_many_blocks_are_looked_up_in_their_order(store: RedisStore) -> None:
    for number in range(0, 1300, 7):
        store.write(key(number), content(number))
    found = store.contains([key(number) for number in range(1300)])
    assert found == [number % 7 == 0 for number in range(1300)]


def test_a_block_can_be_removed(store: RedisStore) -> None:
    store.write(key(1), content(1))
    store.remove(key(1))
    store.remove(key(1))
    assert store.contains([key(1)]) == [False]


def test_engines_share_blocks_of_their_model_only(server: RedisServer, store: RedisStore) -> None:
    store.write(key(1), content(1))
    store.close()
    assert holds(open_store(server), 1)
    assert not holds(open_store(server, identity=OTHER_MODEL), 1)
    assert not holds(open_store(server, key_prefix="staging"), 1)
    assert server.client().keys() == [name(1)]


def test_blocks_that_nobody_uses_are_forgotten_after_a_time(server: RedisServer) -> None:
    store, client = open_store(server, ttl=1000), server.client()
    for number in (1, 2, 3):
        store.write(key(number), content(number))
        assert 900 < client.ttl(name(number)) <= 1000
        client.expire(name(number), 10)
    assert holds(store, 1)
    store.touch([key(2)])
    assert [client.ttl(name(number)) > 900 for number in (1, 2, 3)] == [True, True, False]


def test_without_such_a_time_they_stay(server: RedisServer, store: RedisStore) -> None:
    store.write(key(1), content(1))
    assert server.client().ttl(name(1)) == -1


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (0, Rejection.BAD_MAGIC),
        (8, Rejection.OTHER_VERSION),
        (30, Rejection.FOREIGN_IDENTITY),
        (60, Rejection.OTHER_KEY),
        (HEADER_BYTES + BLOCK // 2, Rejection.BAD_CHECKSUM),
    ],
)
def test_a_bad_block_is_removed_counted_and_logged(
    server: RedisServer, store: RedisStore, caplog, offset: int, reason: Rejection
) -> None:
    store.write(key(1), content(1))
    client = server.client()
    (byte,) = client.getrange(name(1), offset, offset)
    client.setrange(name(1), offset, bytes([byte ^ 1]))
    into = space()
    with pytest.raises(BlockCorruptError) as error:
        store.read(key(1), into)
    assert error.value.reason is reason
    assert into == space()  # nothing of it gets anywhere
    assert not client.exists(name(1))
    assert store.tally.take() == {(Event.CORRUPT, reason): 1}
    assert [key(1).hex() in record.message for record in caplog.records] == [True]
    store.write(key(1), content(1))
    assert holds(store, 1)


def test_a_value_that_is_no_block_is_removed(server: RedisServer, store: RedisStore) -> None:
    for value in (b"", b"something else", b"x" * (HEADER_BYTES + BLOCK)):
        server.client().set(name(1), value)
        with pytest.raises(BlockCorruptError):
            store.read(key(1), space())
    assert not server.client().exists(name(1))


def test_a_value_of_another_kind_costs_its_block(server: RedisServer, store: RedisStore) -> None:
    server.client().lpush(name(1), b"a list")
    assert outage_of(lambda: store.read(key(1), space())) is Outage.REFUSED


def test_threads_share_a_store(store: RedisStore) -> None:
    wrong: list[Exception] = []

    def work(seed: int) -> None:
        try:
            for step in range(50):
                number = (seed * 7 + step * 3) % 40
                store.write(key(number), content(number))
                holds(store, (number + seed) % 40)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_server_that_was_killed_costs_blocks_until_it_is_back(
    server: RedisServer, store: RedisStore, caplog
) -> None:
    caplog.set_level("INFO", logger="vllm.npu")
    store.write(key(1), content(1))
    server.kill()
    assert store.contains([key(1)]) == [False]
    assert outage_of(lambda: store.read(key(1), space())) is Outage.PAUSED
    assert outage_of(lambda: store.write(key(2), content(2))) is Outage.PAUSED
    store.touch([key(1)])
    assert store.tally.take() == {
        (Event.UNAVAILABLE, Outage.CONNECTION): 1,
        (Event.UNAVAILABLE, Outage.PAUSED): 3,
    }
    server.start()
    time.sleep(PAUSE)
    assert not holds(store, 1)  # The server has forgotten it.
    assert store.write(key(2), content(2)) > 0
    assert holds(store, 2)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "works again" in caplog.records[1].message


def test_a_server_that_was_restarted_at_once_costs_nothing_but_its_blocks(
    server: RedisServer, store: RedisStore
) -> None:
    store.write(key(1), content(1))
    server.kill()
    server.start()
    assert store.contains([key(1)]) == [False]
    assert store.write(key(1), content(1)) > 0
    assert store.tally.take() == {}


def test_a_server_that_does_not_answer_in_time_is_left_alone(server: RedisServer, caplog) -> None:
    store = open_store(server, timeout=0.5, pause=3)
    store.write(key(1), content(1))
    server.signal(signal.SIGSTOP)
    try:
        assert outage_of(lambda: store.read(key(1), space())) is Outage.TIMEOUT
        for _ in range(100):
            assert store.contains([key(1)]) == [False]
    finally:
        server.signal(signal.SIGCONT)
    # After the first it isn't even asked.
    assert store.tally.take() == {
        (Event.UNAVAILABLE, Outage.TIMEOUT): 1,
        (Event.UNAVAILABLE, Outage.PAUSED): 100,
    }
    assert len(caplog.records) == 1
    time.sleep(3)
    assert holds(store, 1)


def test_pauses_get_longer_while_a_server_stays_away(
    server: RedisServer, store: RedisStore
) -> None:
    server.kill()
    assert outage_of(lambda: store.remove(key(1))) is Outage.CONNECTION
    time.sleep(PAUSE)
    assert outage_of(lambda: store.remove(key(1))) is Outage.CONNECTION
    time.sleep(PAUSE)
    assert outage_of(lambda: store.remove(key(1))) is Outage.PAUSED
    time.sleep(PAUSE)
    assert outage_of(lambda: store.remove(key(1))) is Outage.CONNECTION


def test_a_server_killed_in_mid_load_is_a_miss(server: RedisServer) -> None:
    size = 64 << 20
    store = RedisStore(
        RedisAddress(server.url), MODEL, block_bytes=size, first_pause_s=PAUSE, longest_pause_s=1
    )
    payload = memoryview(bytes(size))
    store.write(key(1), payload)
    outages = []

    def load() -> None:
        while not outages:
            outage = outage_of(lambda: store.read(key(1), memoryview(bytearray(size))))
            if outage:
                outages.append(outage)

    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(0.05)
    server.kill()
    thread.join(20)
    assert outages == [Outage.CONNECTION]


def test_a_full_server_is_read_on_but_not_written_to(server: RedisServer, caplog) -> None:
    store, client = open_store(server), server.client()
    store.write(key(1), content(1))
    client.config_set("maxmemory", 1)
    client.config_set("maxmemory-policy", "noeviction")
    assert outage_of(lambda: store.write(key(2), content(2))) is Outage.FULL
    assert outage_of(lambda: store.write(key(3), content(3))) is Outage.PAUSED
    assert holds(store, 1)
    assert store.tally.take() == {
        (Event.UNAVAILABLE, Outage.FULL): 1,
        (Event.UNAVAILABLE, Outage.PAUSED): 1,
    }
    (record,) = caplog.records
    assert "allkeys-lru" in record.message
    client.config_set("maxmemory", 0)
    time.sleep(PAUSE)
    assert store.write(key(2), content(2)) > 0


def test_a_server_with_a_limit_of_its_own_keeps_what_was_used_last(server: RedisServer) -> None:
    store, client = open_store(server), server.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 30 * BLOCK)
    for number in range(100):
        store.write(key(number), content(number))
    assert 0 < sum(holds(store, number) for number in range(100)) < 40
    assert holds(store, 99)
    assert store.tally.take() == {}


def test_a_replica_is_read_but_not_written_to(server: RedisServer, store: RedisStore) -> None:
    store.write(key(1), content(1))
    server.client().execute_command("REPLICAOF", "127.0.0.1", "1")
    assert outage_of(lambda: store.write(key(2), content(2))) is Outage.READ_ONLY
    assert holds(store, 1)


def test_a_user_whose_rights_were_taken_away_costs_blocks(server: RedisServer) -> None:
    client = server.client()
    client.execute_command("ACL", "SETUSER", "kv", "on", ">secret", "~*", "+@all")
    store = RedisStore(
        RedisAddress(server.url, username="kv", password="secret"), MODEL, block_bytes=BLOCK
    )
    store.write(key(1), content(1))
    client.execute_command("ACL", "SETUSER", "kv", "-set")
    assert outage_of(lambda: store.write(key(2), content(2))) is Outage.READ_ONLY
    assert holds(store, 1)
    client.execute_command("ACL", "SETUSER", "kv", "-get")
    assert outage_of(lambda: store.read(key(1), space())) is Outage.REFUSED

"""Blocks in a Redis or Valkey server, shared by engines on several machines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from redis.client import Pipeline

from vllm_npu_kv_connector.tiers import block_format
from vllm_npu_kv_connector.tiers.block_format import HEADER_BYTES, BlockRejectedError
from vllm_npu_kv_connector.tiers.breaker import CircuitBreaker
from vllm_npu_kv_connector.tiers.limited_log import LimitedLog
from vllm_npu_kv_connector.tiers.redis_connection import RedisAddress, connect, outages
from vllm_npu_kv_connector.tiers.store import (
    BlockCorruptError,
    BlockMissingError,
    Event,
    Outage,
    StoreUnavailableError,
    Tally,
)
from vllm_npu_runtime.errors import ConfigurationError

_logger = logging.getLogger("vllm.npu")

# What a server accepts in one value unless `proto-max-bulk-len` says otherwise.
_LARGEST_VALUE = 512 << 20
# Commands in one message, so that none takes the server for long.
_PIPELINED = 512
_NOT_READABLE = (Outage.CONNECTION, Outage.TIMEOUT, Outage.REFUSED, Outage.FAILED)
_NOT_WRITABLE = (Outage.FULL, Outage.READ_ONLY)


class RedisStore:
    """A value a block, under ``<key_prefix>:v<format>:<identity>:<key>``.

    How much is kept, and what goes first, is the server's to decide: set its `maxmemory`, and
    `maxmemory-policy` to ``allkeys-lru``. Without that policy a server that is full refuses
    writes, which is logged and counted, and nothing worse.

    At construction the server must answer. If it goes down later, it is left alone for a few
    seconds, longer each time; what it would have had are misses.
    """

    at_hand = False

    def __init__(
        self,
        address: RedisAddress,
        identity: str,
        *,
        block_bytes: int,
        key_prefix: str = "vllm-npu",
        ttl: int | None = None,
        first_pause_s: float = 2.0,
        longest_pause_s: float = 60.0,
    ) -> None:
        """Connect.

        Args:
            address: of the server.
            identity: 64 hexadecimal digits: what blocks depend on besides tokens.
            block_bytes: of every block.
            key_prefix: of all keys, to tell them from what else is on the server.
            ttl: seconds that a block is kept after its last use; for ever if None.
            first_pause_s: how long a server that failed is left alone at first.
            longest_pause_s: how long at most.

        Raises:
            ConfigurationError: the server can't be reached or used.
        """
        self.block_bytes = block_bytes
        self.tally = Tally()
        self._identity = block_format.identity_bytes(identity)
        if block_bytes + HEADER_BYTES > _LARGEST_VALUE:
            raise ConfigurationError(
                f"A block of {block_bytes} bytes is more than the {_LARGEST_VALUE} that a Redis "
                "server takes in one value. Set a smaller block_size."
            )
        self._names = f"{key_prefix}:v{block_format.VERSION}:{identity}:".encode()
        self._ttl = ttl
        self._shown = address.shown
        self._log = LimitedLog(_logger)
        self._calls = CircuitBreaker(
            f"KV tier at {self._shown}",
            _logger,
            opens_on=_NOT_READABLE,
            first_pause_s=first_pause_s,
            longest_pause_s=longest_pause_s,
        )
        self._writes = CircuitBreaker(
            f"Writing to KV tier at {self._shown}",
            _logger,
            opens_on=_NOT_WRITABLE,
            first_pause_s=first_pause_s,
            longest_pause_s=longest_pause_s,
        )
        self._client = connect(address)

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        """As of `BlockStore`."""
        with suppress(StoreUnavailableError):
            return [found > 0 for found in self._for_each(keys, _exists)]
        return [False] * len(keys)

    def read(self, key: bytes, into: memoryview) -> None:
        """As of `BlockStore`."""
        name = self._names + key
        with self._available():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.get(name)
            if self._ttl is not None:
                pipeline.expire(name, self._ttl)
            block = pipeline.execute()[0]
        if block is None:
            raise BlockMissingError(f"there is no block {key.hex()}")
        try:
            block_format.unpack(block, self._identity, key, into)
        except BlockRejectedError as error:
            self.tally.add(Event.CORRUPT, error.reason)
            self._log.warning(
                error.reason,
                "KV block %s in %s is removed: %s. It is computed anew.",
                key.hex(),
                self._shown,
                error,
            )
            with suppress(StoreUnavailableError):
                self.remove(key)
            raise BlockCorruptError(error.reason) from None

    def write(self, key: bytes, payload: memoryview) -> int:
        """As of `BlockStore`."""
        name = self._names + key
        with self._available():
            if self._client.exists(name):
                return 0
            # The client would join a value of several pieces as well.
            block = b"".join((block_format.header_of(self._identity, key, payload), payload))
            with self._writes.call(), outages(refused=Outage.READ_ONLY):
                kept = self._client.set(name, block, nx=True, ex=self._ttl)
        return len(block) if kept else 0

    def remove(self, key: bytes) -> None:
        """As of `BlockStore`."""
        with self._available():
            self._client.unlink(self._names + key)

    def touch(self, keys: Sequence[bytes]) -> None:
        """As of `BlockStore`."""
        ttl = self._ttl
        with suppress(StoreUnavailableError):
            if ttl is None:
                self._for_each(keys, lambda pipeline, name: pipeline.touch(name))
            else:
                self._for_each(keys, lambda pipeline, name: pipeline.expire(name, ttl))

    def kept_bytes(self) -> int | None:
        """As of `BlockStore`: only the server knows."""
        return None

    def close(self) -> None:
        """As of `BlockStore`."""
        self._client.close()

    def _for_each(
        self, keys: Sequence[bytes], queue: Callable[[Pipeline, bytes], object]
    ) -> list[int]:
        answers: list[int] = []
        for first in range(0, len(keys), _PIPELINED):
            with self._available():
                pipeline = self._client.pipeline(transaction=False)
                for key in keys[first : first + _PIPELINED]:
                    queue(pipeline, self._names + key)
                answers += pipeline.execute()
        return answers

    @contextmanager
    def _available(self) -> Iterator[None]:
        try:
            with self._calls.call(), outages():
                yield
        except StoreUnavailableError as error:
            self.tally.add(Event.UNAVAILABLE, error.outage)
            raise


def _exists(pipeline: Pipeline, name: bytes) -> object:
    return pipeline.exists(name)

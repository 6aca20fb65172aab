"""What keeps blocks outside the process, and how that can fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from vllm_npu_kv_connector.tiers.block_format import Rejection
from vllm_npu_runtime.errors import NPUError


class StoreError(NPUError):
    """A block couldn't be read or written. What it was wanted for goes on without it."""


class BlockMissingError(StoreError):
    """The store doesn't have the block, any more or at all."""


class BlockCorruptError(StoreError):
    """What lay in the block's place wasn't the block. The store has removed it.

    Attributes:
        reason: what was wrong with it.
    """

    def __init__(self, reason: Rejection) -> None:
        super().__init__(f"a stored block was rejected: {reason.value}")
        self.reason = reason


class Outage(StrEnum):
    """Why a store can't be used now; also a label of metrics."""

    CONNECTION = "connection"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    PAUSED = "paused"
    FULL = "full"
    READ_ONLY = "read_only"
    LOCKED = "locked"
    FAILED = "failed"


class StoreUnavailableError(StoreError):
    """The store can't be used now; that says nothing about the block.

    Attributes:
        outage: why.
    """

    def __init__(self, outage: Outage, why: str) -> None:
        super().__init__(why)
        self.outage = outage


class Event(StrEnum):
    """What a store counts."""

    EVICTED = "evicted"
    CORRUPT = "corrupt"
    UNAVAILABLE = "unavailable"


class Tally:
    """What happened in a store since somebody last asked, by event and reason. Thread-safe."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[Event, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, event: Event, reason: str = "", count: int = 1) -> None:
        """Count something that happened.

        Args:
            event: what.
            reason: why: a `Rejection` of a corrupt block, an `Outage` of one unavailable.
            count: how often.
        """
        with self._lock:
            self._counts[event, reason] += count

    def take(self) -> dict[tuple[Event, str], int]:
        """The counts, which start anew."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return dict(counts)


class BlockStore(Protocol):
    """Keeps blocks of one size under one identity. Any thread may call anything at any time.

    It logs what goes wrong, without flooding the log, and counts it: a caller needn't.
    A key has 1 to 64 bytes. A payload or buffer has `block_bytes`, contiguous, of format ``B``.

    Attributes:
        block_bytes: of every block.
        at_hand: whether `contains` mostly takes microseconds.
        tally: what happened.
    """

    block_bytes: int
    at_hand: bool
    tally: Tally

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of them it has, as far as can be told without reading them.

        None while it can't be used; raises nothing.
        """
        ...

    def read(self, key: bytes, into: memoryview) -> None:
        """Copy a block out, and count that as a use of it. After an error `into` holds anything.

        Raises:
            BlockMissingError: it doesn't have it.
            BlockCorruptError: what it had wasn't the block.
            StoreUnavailableError: it can't be used now.
        """
        ...

    def write(self, key: bytes, payload: memoryview) -> int:
        """Keep a block; bytes written, 0 if it had it before.

        Raises:
            StoreUnavailableError: it can't be used now, or has no room.
        """
        ...

    def remove(self, key: bytes) -> None:
        """Forget a block, if it has it.

        Raises:
            StoreUnavailableError: it can't be used now.
        """
        ...

    def touch(self, keys: Sequence[bytes]) -> None:
        """Count a use of blocks, if it has them; raises nothing."""
        ...

    def kept_bytes(self) -> int | None:
        """Bytes that it takes for all identities; None if it doesn't know. Quick."""
        ...

    def close(self) -> None:
        """Let go of connections and files; what is kept stays. Nothing may be called after."""
        ...

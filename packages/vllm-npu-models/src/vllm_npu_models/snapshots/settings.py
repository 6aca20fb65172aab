"""What the configuration hook tells the connector, and what the session says of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm_npu_models.names import BLOCK_SIZE, ENABLED

if TYPE_CHECKING:
    from vllm_npu_runtime.sessions.base import Session

DEFAULT_BLOCK_SIZE = 16
_MIB = 1 << 20


@dataclass(frozen=True)
class SnapshotSettings:
    """What the user wants.

    Attributes:
        enabled: prefixes are kept and looked up.
        block_size: tokens in which prefixes are told apart; a shorter one is never found.
        max_entries: finished requests that are kept, in slots and on the host together.
        max_host_bytes: bytes of the host's memory that they may take.
        min_hit_tokens: shortest prefix that is worth loading.
        load_margin: a prefix is loaded if that takes less than this share of computing it.
    """

    enabled: bool = True
    block_size: int = DEFAULT_BLOCK_SIZE
    max_entries: int = 16
    max_host_bytes: int = 4096 * _MIB
    min_hit_tokens: int = 16
    load_margin: float = 0.9

    @classmethod
    def of(cls, extra: Mapping[str, Any]) -> SnapshotSettings:
        """Read the connector's configuration, as the hook writes it."""
        return cls(
            enabled=bool(extra[ENABLED]),
            block_size=extra.get(BLOCK_SIZE) or DEFAULT_BLOCK_SIZE,
            max_entries=extra["prefix_cache_max_entries"],
            max_host_bytes=extra["prefix_cache_max_host_mib"] * _MIB,
            min_hit_tokens=extra["prefix_cache_min_hit_tokens"],
            load_margin=extra["prefix_cache_load_margin"],
        )


@dataclass(frozen=True)
class SessionFacts:
    """What the scheduler's process must know of the session in the worker's.

    Attributes:
        crops: a request may go on from fewer tokens than its slot holds.
        copies: slots can be copied to the host and back, and to each other.
        step: a copy's first tokens alone are exact at multiples of this; 0: only whole.
        bytes_per_token: that a copy takes on the host, about.
    """

    crops: bool
    copies: bool
    step: int
    bytes_per_token: float

    @classmethod
    def of(cls, session: Session) -> SessionFacts:
        """Ask a session."""
        can = session.capabilities
        return cls(
            crops=can.crops,
            copies=can.snapshots,
            step=can.snapshot_step,
            bytes_per_token=session.slot_bytes / max(can.max_length, 1),
        )

    def bytes_for(self, tokens: int) -> int:
        """About how many bytes a copy of so many tokens takes."""
        return math.ceil(tokens * self.bytes_per_token)

    def copied(self, matched: int, held: int) -> int:
        """How many of `matched` tokens a copy out of `held` gives exactly."""
        if not self.copies:
            return 0
        if self.step == 0:
            return held if matched >= held else 0
        return matched - matched % self.step

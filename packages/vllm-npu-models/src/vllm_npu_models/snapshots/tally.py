"""What happened to kept prefixes, counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tally:
    """Counts since the last time that they were taken.

    Attributes:
        hits: requests that went on from a kept prefix.
        hit_tokens: tokens of theirs that weren't computed.
        loads: of those, prefixes loaded from the host.
        slot_copies: of those, prefixes copied from another slot.
        copy_outs: slots copied to the host.
        evictions: prefixes given up for want of room, or lost.
        refused: prefixes that were computed, as loading them would have taken longer.
        failed_loads: prefixes that couldn't be loaded, and were computed after all.
        failures: requests whose slot failed.
    """

    hits: int = 0
    hit_tokens: int = 0
    loads: int = 0
    slot_copies: int = 0
    copy_outs: int = 0
    evictions: int = 0
    refused: int = 0
    failed_loads: int = 0
    failures: int = 0

"""Which kept prefix a request goes on from, and in which slot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vllm_npu_models.snapshots.budget import Kept
from vllm_npu_models.snapshots.cost import CostModel
from vllm_npu_models.snapshots.index import Entry, Place
from vllm_npu_models.snapshots.settings import SessionFacts, SnapshotSettings


@dataclass(frozen=True)
class Plan:
    """What to do for a request that is about to get a slot.

    Attributes:
        slot: that it should get; None: there is none.
        entry: whose first tokens it goes on from; None: it begins from nothing.
        tokens: how many those are.
        wait: an entry that is worth it is on its way to the host; ask again in the next step.
        refused: loading what was found would take longer than computing it.
        in_place: the request goes on in the slot that holds the entry.
    """

    slot: int | None
    entry: Entry | None = None
    tokens: int = 0
    wait: bool = False
    refused: bool = False
    in_place: bool = False


@dataclass(frozen=True)
class _Way:
    """One way to go on from an entry: more tokens first, then the cheaper."""

    entry: Entry
    tokens: int
    slot: int
    ease: int

    @property
    def in_place(self) -> bool:
        return self.entry.place is Place.SLOT and self.entry.slot == self.slot

    @property
    def rank(self) -> tuple[int, int]:
        return self.tokens, self.ease


class Planner:
    """Weighs what the index found."""

    def __init__(
        self, settings: SnapshotSettings, facts: SessionFacts, kept: Kept, cost: CostModel
    ) -> None:
        self._settings = settings
        self._facts = facts
        self._kept = kept
        self._cost = cost

    def plan(self, matches: Iterable[tuple[Entry, int]], free: Sequence[int]) -> Plan:
        """The best way.

        Args:
            matches: entries, and how many tokens each shares with the request.
            free: slots that may be handed out, in vLLM's order.
        """
        ways = [
            way
            for entry, shared in matches
            if (way := self._way(entry, shared, free)) is not None
            and way.tokens >= self._settings.min_hit_tokens
        ]
        refused = False
        for way in sorted(ways, key=lambda way: way.rank, reverse=True):
            if not self._worth(way):
                refused = True
            elif way.entry.place is Place.LEAVING:
                return Plan(None, wait=True)
            else:
                return Plan(way.slot, way.entry, way.tokens, in_place=way.in_place)
        return Plan(self._victim(free), refused=refused)

    def _way(self, entry: Entry, shared: int, free: Sequence[int]) -> _Way | None:
        if not free:
            return None
        if entry.place is Place.SLOT:
            return self._from_slot(entry, shared, free)
        victim = self._victim(free)
        assert victim is not None
        held = entry.tokens
        if entry.place is Place.LIVE and self._facts.step == 0:
            held = 0  # It holds more by the time that it is copied.
        ease = 2 if entry.place is Place.LIVE else 1
        return _Way(entry, self._facts.copied(min(shared, held), held), victim, ease)

    def _from_slot(self, entry: Entry, shared: int, free: Sequence[int]) -> _Way:
        """In place if nothing is lost by it or there is no other way; else by a copy."""
        whole = shared >= entry.tokens
        others = [slot for slot in free if slot != entry.slot]
        free_itself = len(others) < len(free)
        alone = whole or not others or not self._facts.copies
        if free_itself and self._facts.crops and alone:
            return _Way(entry, shared, entry.slot, 3)
        victim = self._victim(others)
        # A slot may hold a token beyond its entry, so that a copy of "all" of it isn't whole.
        if victim is None or self._facts.step == 0:
            return _Way(entry, 0, entry.slot, 0)
        return _Way(entry, self._facts.copied(shared, entry.tokens), victim, 2)

    def _victim(self, free: Sequence[int]) -> int | None:
        """The free slot whose contents are missed least."""
        entries = {entry.slot: age for age, entry in enumerate(self._kept, 1) if _in_slot(entry)}
        return min(free, key=lambda slot: entries.get(slot, 0), default=None)

    def _worth(self, way: _Way) -> bool:
        if way.in_place:
            return True
        near = way.entry.place in (Place.SLOT, Place.LIVE)
        average = self._cost.slot_copies if near else self._cost.loads
        return self._cost.worth(average, way.tokens) or not self._cost.refused()


def _in_slot(entry: Entry) -> bool:
    return entry.place is Place.SLOT

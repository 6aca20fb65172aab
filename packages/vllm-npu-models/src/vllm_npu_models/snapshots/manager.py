"""The scheduler's side: what is kept where, and what the worker must do about it.

A request's slot becomes an entry when it finishes, without a copy. When vLLM hands that slot to
another request, the entry is used in place, or copied out to the host in that very step, or given
up. Running requests' slots are looked up too: several that begin alike share the work of the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from vllm_npu_models.snapshots.budget import Kept
from vllm_npu_models.snapshots.cost import CostModel
from vllm_npu_models.snapshots.index import Entry, Place, PrefixIndex
from vllm_npu_models.snapshots.operations import (
    Assign,
    CopyOut,
    CopySlot,
    DropHost,
    Forget,
    LoadHost,
    Operation,
    Report,
)
from vllm_npu_models.snapshots.plan import Plan, Planner
from vllm_npu_models.snapshots.prefix import Prefix
from vllm_npu_models.snapshots.settings import SessionFacts, SnapshotSettings
from vllm_npu_models.snapshots.tally import Tally


class SnapshotManager:
    """Entries, their places, and the operations that follow.

    Attributes:
        tally: what happened since it was last taken.
    """

    def __init__(self, settings: SnapshotSettings, facts: SessionFacts) -> None:
        self.tally = Tally()
        self._settings = settings
        self._facts = facts
        self._index = PrefixIndex()
        self._kept = Kept(settings.max_entries, settings.max_host_bytes)
        self._cost = CostModel(settings.load_margin)
        self._planner = Planner(settings, facts, self._kept, self._cost)
        self._live: dict[str, Entry] = {}
        self._slots: dict[str, int] = {}
        self._operations: list[Operation] = []
        self._numbers = itertools.count(1)

    def plan(self, prefix: Prefix | None, limit: int, free: Sequence[int]) -> Plan:
        """What to do for a request; changes nothing.

        Args:
            prefix: of its tokens; None: it must begin from nothing.
            limit: most tokens that it may go on from.
            free: slots that vLLM may hand out, in its order.
        """
        matches = () if prefix is None else self._index.matches(prefix, limit)
        return self._planner.plan(matches, free)

    def admit(
        self,
        request: str,
        slot: int,
        plan: Plan,
        prefix: Prefix | None = None,
        computed: Callable[[], int] | None = None,
    ) -> None:
        """vLLM has given a request a slot.

        Args:
            request: its id.
            slot: that it got.
            plan: followed, or one without an entry.
            prefix: of its tokens; None: nothing of it may be kept or shared.
            computed: says how many of its tokens' keys and values are in the slot.

        Raises:
            RuntimeError: the plan has an entry, but was for another slot.
        """
        if plan.entry is not None and plan.slot != slot:
            raise RuntimeError(
                f"Request {request} was to go on in slot {plan.slot} but got slot {slot}: this "
                "vLLM hands out blocks in another way than the release that this package is for."
            )
        self._slots[request] = slot
        self._vacate(slot, plan)
        self._operations.append(Assign(slot, request, plan.tokens if plan.in_place else 0))
        if plan.entry is not None:
            self._fill(slot, plan, plan.entry)
        self.tally.refused += plan.refused
        self._end(request)  # It was preempted, if there is something to end.
        if prefix is not None:
            live = Entry(next(self._numbers), prefix, Place.LIVE, request, slot, computed=computed)
            self._live[request] = live
            self._index.add(live)

    def finish(self, request: str, prefix: Prefix | None) -> None:
        """A request leaves its slot.

        Args:
            request: its id.
            prefix: of the tokens whose keys and values it leaves behind; None: not to be kept.
        """
        slot = self._slots.pop(request)
        shared = self._end(request)
        if prefix is None or not shared or not self._worth(prefix):
            self._operations.append(Forget(slot))
            return
        for older in self._index.begun_by(prefix):
            if older in self._kept:
                self._drop(older)
        entry = Entry(next(self._numbers), prefix, Place.SLOT, request, slot)
        self._index.add(entry)
        self._kept.add(entry)
        self._evict()

    def abandon(self, request: str) -> None:
        """A request ends that has no slot, or lost its slot by preemption."""
        self._slots.pop(request, None)
        self._end(request)

    def take(self, report: Report) -> None:
        """Take in what the worker found out."""
        self._cost.take(report)
        for number, nbytes in report.stored.items():
            entry = self._kept.get(number)
            if entry is not None and entry.place is Place.LEAVING:
                entry.place, entry.nbytes = Place.HOST, nbytes
        for number in report.lost:
            entry = self._kept.get(number)
            if entry is not None:
                self._remove(entry)
                self.tally.evictions += 1
        for request in report.unfilled:
            self._end(request)
            self.tally.failed_loads += 1
        for request in report.failed:
            self._fail(request)
        self._evict()

    def clear(self) -> None:
        """Keep nothing of what there is; running requests go on, but nothing of them is kept."""
        for entry in self._kept:
            self._drop(entry)
        for entry in self._live.values():
            self._index.remove(entry)
        self._live.clear()

    def take_operations(self) -> tuple[Operation, ...]:
        """What the worker must do before the next step."""
        taken = tuple(self._operations)
        self._operations.clear()
        return taken

    @property
    def pending(self) -> bool:
        """Whether there is something for the worker to do."""
        return bool(self._operations)

    def slots_of(self, requests: Sequence[str]) -> frozenset[int]:
        """Slots of requests."""
        return frozenset(self._slots[each] for each in requests if each in self._slots)

    @property
    def entries(self) -> int:
        """How many are kept."""
        return len(self._kept)

    @property
    def host_bytes(self) -> int:
        """Bytes on the host, with those on their way there."""
        return self._kept.host_bytes

    def _end(self, request: str) -> bool:
        """A request's slot is shared no longer; whether it was."""
        live = self._live.pop(request, None)
        if live is None:
            return False
        self._index.remove(live)
        return True

    def _worth(self, prefix: Prefix) -> bool:
        return prefix.root is not None and len(prefix) >= self._settings.min_hit_tokens

    def _vacate(self, slot: int, plan: Plan) -> None:
        """Make way in a slot: what it held is used up, copied out or given up."""
        old = self._kept.in_slot(slot)
        if old is None:
            return
        if plan.in_place and plan.tokens >= old.tokens:
            self._remove(old)
        else:
            self._copy_out(old, plan.entry)

    def _copy_out(self, entry: Entry, spared: Entry | None) -> None:
        step = self._facts.step or 1
        tokens = entry.tokens - entry.tokens % step
        nbytes = self._facts.bytes_for(tokens)
        fits = self._facts.copies and tokens >= self._settings.min_hit_tokens
        gone = self._kept.room_for(nbytes, spared) if fits else None
        if gone is None:
            self._remove(entry)
            self.tally.evictions += 1
            return
        for each in gone:
            self._drop(each)
            self.tally.evictions += 1
        slot, entry.place = entry.slot, Place.LEAVING
        self._index.remove(entry)
        entry.prefix, entry.slot, entry.nbytes = entry.prefix.cut(tokens), -1, nbytes
        self._index.add(entry)
        self._operations.append(CopyOut(slot, entry.id, tokens))
        self.tally.copy_outs += 1

    def _fill(self, slot: int, plan: Plan, entry: Entry) -> None:
        self.tally.hits += 1
        self.tally.hit_tokens += plan.tokens
        if entry in self._kept:
            self._kept.touch(entry)
        if plan.in_place:
            return
        if entry.place is Place.HOST:
            self._operations.append(LoadHost(entry.id, slot, plan.tokens))
            self.tally.loads += 1
        else:
            self._operations.append(CopySlot(entry.slot, slot, plan.tokens))
            self.tally.slot_copies += 1

    def _fail(self, request: str) -> None:
        """What a failed request's slot held is gone."""
        self.tally.failures += 1
        self._end(request)
        for entry in self._kept:
            if entry.request == request and entry.place is Place.SLOT:
                self._drop(entry)

    def _evict(self) -> None:
        for entry in self._kept.excess():
            self._drop(entry)
            self.tally.evictions += 1

    def _drop(self, entry: Entry) -> None:
        """Give an entry up, and have the worker do so."""
        self._remove(entry)
        slot = entry.slot
        on_host = entry.place in (Place.HOST, Place.LEAVING)
        self._operations.append(DropHost(entry.id) if on_host else Forget(slot))

    def _remove(self, entry: Entry) -> None:
        self._index.remove(entry)
        self._kept.remove(entry)

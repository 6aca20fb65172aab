"""An engine in miniature: requests, slots handed out last freed first, steps, late reports."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from vllm_npu_models.snapshots.executor import Executor
from vllm_npu_models.snapshots.manager import SnapshotManager
from vllm_npu_models.snapshots.operations import Operation, Report
from vllm_npu_models.snapshots.plan import Plan
from vllm_npu_models.snapshots.settings import SnapshotSettings

from .fakes import Slots, TokenSession, facts, prefix


@dataclass
class Running:
    """A request with a slot."""

    tokens: list[int]
    slot: int
    computed: int
    who: object


class Engine:
    """What vLLM does, as far as snapshots are concerned.

    Every token that a request goes on from is compared with what its slot holds.

    Args:
        late: steps after which the worker's report arrives.
    """

    def __init__(self, settings: SnapshotSettings, session: TokenSession, late: int = 0) -> None:
        self.session = session
        self.slots = Slots()
        self.manager = SnapshotManager(settings, facts(session))
        self.executor = Executor(session, self.slots, settings.max_host_bytes)  # type: ignore[arg-type]
        self.running: dict[str, Running] = {}
        self.preempted: dict[str, Running] = {}
        self.free = list(range(len(session.held)))
        self.operations: list[Operation] = []
        self.failing: set[int] = set()
        self._reports: deque[Report | None] = deque()
        self._late = late
        self._names = 0

    def admit(self, tokens: Iterable[int], who: object = None, name: str | None = None) -> Plan:
        """Schedule a request, unless it has to wait; its plan."""
        wanted = list(tokens)
        if name is None:
            self._names += 1
            name = str(self._names)
        known = prefix(*wanted, who=who)
        plan = self.manager.plan(known, len(wanted) - 1, self.free)
        if plan.wait:
            return plan
        slot = self.free[0] if plan.slot is None else plan.slot
        self.free.remove(slot)
        running = Running(wanted, slot, plan.tokens, who)
        self.manager.admit(name, slot, plan, known, lambda: running.computed)
        self.running[name] = running
        return plan

    def step(self, chunk: int = 99, sampled: int = 7) -> None:
        """Run what is scheduled, so many tokens each."""
        operations = self.manager.take_operations()
        self.operations = list(operations)
        self.executor.begin(operations, frozenset(r.slot for r in self.running.values()))
        for request in self.running.values():
            if request.slot in self.slots.failed:
                continue
            past, held = request.computed, self.session.held[request.slot]
            assert held[:past] == request.tokens[:past], "it goes on from foreign tokens"
            tokens = request.tokens[past : past + chunk]
            if request.slot in self.failing:
                self.session.held[request.slot] = []
                self.slots.failed.add(request.slot)
                continue
            self.session.run(request.slot, past, tokens)
            request.computed += len(tokens)
            if request.computed == len(request.tokens):
                request.tokens.append(sampled)
        self.executor.end()
        self._reports.append(self.executor.take_report())
        while len(self._reports) > self._late:
            report = self._reports.popleft()
            if report is not None:
                self.manager.take(report)

    def finish(self, name: str, ahead: bool = False) -> None:
        """A request ends.

        Args:
            name: its.
            ahead: one more step of it had been scheduled already.
        """
        request = self.running.pop(name)
        left = min(request.computed, len(request.tokens) - 1)
        self.free.insert(0, request.slot)
        self.manager.finish(name, prefix(*request.tokens, who=request.who).cut(left))
        if ahead and request.slot not in self.executor._broken:
            held = self.session.held[request.slot]
            self.session.run(request.slot, len(held), [9])

    def run(self, tokens: Iterable[int], who: object = None) -> Plan:
        """A request from its beginning to its end."""
        plan = self.admit(tokens, who)
        self.step()
        self.finish(next(reversed(self.running)))
        return plan

    def preempt(self, name: str) -> None:
        """A request loses its slot."""
        request = self.running.pop(name)
        request.computed = 0
        self.free.insert(0, request.slot)
        self.preempted[name] = request

    def resume(self, name: str) -> None:
        """It gets one again."""
        request = self.preempted[name]
        if not self.admit(request.tokens, request.who, name).wait:
            del self.preempted[name]

    def abort_preempted(self, name: str) -> None:
        """It doesn't."""
        del self.preempted[name]
        self.manager.abandon(name)

"""Whatever happens, in whatever order: no foreign token, no budget overrun, the longest prefix."""

from __future__ import annotations

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .engine import Engine
from .fakes import BLOCK, TokenSession, settings

TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=14)
BYTES_PER_TOKEN = 8


class AnyOrder(RuleBasedStateMachine):
    """Requests come, run, end, are aborted, preempted, resumed, fail; everything is cleared.

    `Engine` compares the tokens of every slot with those of its request at every step.
    """

    @initialize(
        slots=st.integers(1, 3),
        entries=st.integers(0, 4),
        host_tokens=st.integers(0, 40),
        late=st.integers(0, 1),
        step=st.sampled_from([1, 2, 8]),
        crops=st.booleans(),
        copies=st.booleans(),
    )
    def begin(
        self,
        slots: int,
        entries: int,
        host_tokens: int,
        late: int,
        step: int,
        crops: bool,
        copies: bool,
    ) -> None:
        session = TokenSession(slots, crops=crops, copies=copies, step=step)
        self.wanted = settings(max_entries=entries, max_host_bytes=BYTES_PER_TOKEN * host_tokens)
        self.engine = Engine(self.wanted, session, late)

    def _name(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.engine.running)))

    @precondition(lambda self: self.engine.free)
    @rule(tokens=TOKENS, who=st.sampled_from([None, None, "salt"]))
    def arrive(self, tokens: list[int], who: str | None) -> None:
        self.engine.admit(tokens, who)

    @rule(chunk=st.integers(1, 6), sampled=st.integers(0, 1))
    def step(self, chunk: int, sampled: int) -> None:
        self.engine.step(chunk, sampled)

    @precondition(lambda self: self.engine.running)
    @rule(data=st.data(), ahead=st.booleans())
    def end(self, data: st.DataObject, ahead: bool) -> None:
        self.engine.step(1)  # What is scheduled is run, even if it is aborted meanwhile.
        self.engine.finish(self._name(data), ahead)

    @precondition(lambda self: self.engine.running)
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        self.engine.step(1)
        self.engine.preempt(self._name(data))

    @precondition(lambda self: self.engine.preempted and self.engine.free)
    @rule(data=st.data(), resumes=st.booleans())
    def resume(self, data: st.DataObject, resumes: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.engine.preempted)))
        if resumes:
            self.engine.resume(name)
        else:
            self.engine.abort_preempted(name)

    @rule(what=st.sets(st.sampled_from(["snapshot", "restore", "copy"])))
    def out_of_memory(self, what: set[str]) -> None:
        self.engine.session.out_of_memory = what

    @rule()
    def clear(self) -> None:
        self.engine.manager.clear()

    @invariant()
    def limits_hold(self) -> None:
        if hasattr(self, "engine"):
            assert self.engine.manager.entries <= self.wanted.max_entries
            assert self.engine.executor.host_bytes <= self.wanted.max_host_bytes
            assert self.engine.manager.host_bytes <= self.wanted.max_host_bytes


AnyOrder.TestCase.settings = hypothesis_settings(
    max_examples=300, stateful_step_count=40, deadline=None
)
TestAnyOrder = AnyOrder.TestCase


class LongestPrefix(RuleBasedStateMachine):
    """Where slots crop and copy freely and nothing is given up, no prefix is missed."""

    @initialize(slots=st.integers(1, 3))
    def begin(self, slots: int) -> None:
        self.engine = Engine(settings(max_entries=99), TokenSession(slots))
        self.known: list[list[int]] = []

    @rule(tokens=TOKENS)
    def serve(self, tokens: list[int]) -> None:
        plan = self.engine.admit(tokens)
        shared = [_shared(tokens[:-1], known) for known in self.known]
        assert plan.tokens == max([each for each in shared if each >= BLOCK], default=0)
        name = next(reversed(self.engine.running))
        self.engine.step()
        held = self.engine.running[name]
        self.known.append(held.tokens[:-1])
        self.engine.finish(name)


def _shared(ours: list[int], theirs: list[int]) -> int:
    count = 0
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            break
        count += 1
    return count


LongestPrefix.TestCase.settings = hypothesis_settings(
    max_examples=100, stateful_step_count=30, deadline=None
)
TestLongestPrefix = LongestPrefix.TestCase

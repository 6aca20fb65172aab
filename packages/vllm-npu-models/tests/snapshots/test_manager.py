"""What becomes of a request's keys and values, slot by slot."""

from __future__ import annotations

from vllm_npu_models.snapshots.operations import (
    Assign,
    CopyOut,
    CopySlot,
    DropHost,
    Forget,
    LoadHost,
    Report,
)

from .engine import Engine
from .fakes import TokenSession, prefix, settings

A = list(range(100, 112))
B = list(range(200, 212))
C = list(range(300, 312))


def _engine(slots: int = 2, late: int = 0, session: TokenSession | None = None, **changes: object):  # type: ignore[no-untyped-def]
    return Engine(settings(**changes), session or TokenSession(slots), late)


def _said(engine: Engine, *kinds: type) -> list[object]:
    return [each for each in engine.operations if isinstance(each, kinds)]


def test_a_continued_conversation_goes_on_in_its_slot_without_a_copy() -> None:
    engine = _engine()
    engine.run(A)
    plan = engine.run([*A, 7, 1, 2, 3])
    # All but the token that was sampled last, which nothing has been computed of.
    assert (plan.tokens, plan.in_place) == (12, True)
    assert engine.operations == [Assign(plan.slot, "2", 12)]
    assert engine.session.calls == []


def test_another_request_takes_the_slot_that_holds_nothing() -> None:
    engine = _engine()
    engine.run(A)
    engine.run(B)
    assert engine.run([*A, 7, 1]).tokens == 12
    assert engine.session.calls == []


def test_a_slot_is_copied_out_when_another_request_needs_it_and_not_before() -> None:
    engine = _engine(slots=1)
    engine.run(A)
    assert engine.session.calls == []
    engine.run(B)
    assert _said(engine, CopyOut, Assign) == [CopyOut(0, 1 + 1, 12), Assign(0, "2")]
    plan = engine.run([*A, 7, 1])
    assert plan.tokens == 12
    # B makes way before A comes back.
    assert [type(each) for each in engine.operations] == [CopyOut, Assign, LoadHost]


def test_of_two_slots_the_one_least_recently_used_makes_way() -> None:
    engine = _engine()
    engine.run(A)
    engine.run(B)
    engine.run([*A, 7, 1])
    engine.run(C)
    assert engine.session.calls == [("snapshot", 1, 12)]
    assert engine.session.held[1][:12] == C


def test_a_shared_beginning_is_copied_so_that_both_ends_are_kept() -> None:
    engine = _engine()
    engine.run([*A, 1, 2, 3])
    plan = engine.run([*A, 4, 5, 6])
    assert (plan.tokens, plan.in_place) == (12, False)
    assert _said(engine, CopySlot) == [CopySlot(0, 1, 12)]
    assert engine.run([*A, 1, 2, 3, 7, 8]).tokens == 15
    assert engine.run([*A, 4, 5, 6, 7, 8]).tokens == 15


def test_with_one_slot_the_end_is_copied_out_and_the_beginning_goes_on_in_place() -> None:
    engine = _engine(slots=1)
    engine.run([*A, 1, 2, 3])
    plan = engine.run([*A, 4, 5, 6])
    assert (plan.tokens, plan.in_place) == (12, True)
    assert _said(engine, CopyOut, Assign) == [CopyOut(0, 2, 15), Assign(0, "2", 12)]
    assert engine.run([*A, 1, 2, 3, 7, 8]).tokens == 15


def test_requests_at_once_share_what_the_first_of_them_has_computed() -> None:
    engine = _engine(slots=3)
    engine.admit([*A, 1])
    engine.step(chunk=8)
    assert engine.admit([*A, 2]).tokens == 8
    assert _said(engine, CopySlot) == []
    engine.step()
    assert _said(engine, CopySlot) == [CopySlot(0, 1, 8)]
    assert engine.admit([*A, 3]).tokens == 12


def test_requests_of_one_step_share_what_the_first_of_them_goes_on_from() -> None:
    engine = _engine(slots=3)
    engine.run(A)
    assert engine.admit([*A, 7, 1]).in_place
    assert engine.admit([*A, 7, 2]).tokens == 12
    engine.step()
    assert _said(engine, CopySlot) == [CopySlot(0, 1, 12)]


def test_what_is_on_its_way_to_the_host_is_waited_for() -> None:
    engine = _engine(slots=2, late=1)
    engine.run(A)
    engine.run(B)
    engine.admit(C)
    assert engine.admit([*A, 7, 1]).wait
    engine.step()
    assert engine.admit([*A, 7, 1]).wait
    engine.step()
    plan = engine.admit([*A, 7, 1])
    assert (plan.wait, plan.tokens) == (False, 12)
    engine.step()


def test_at_least_one_token_is_left_to_compute() -> None:
    engine = _engine()
    engine.run(A)
    assert engine.run(A).tokens == 11


def test_a_hit_need_not_end_with_a_block_but_has_one() -> None:
    engine = _engine(min_hit_tokens=1)
    engine.run(A)
    assert engine.run([*A[:7], 1, 2]).tokens == 7
    assert engine.run([*A[:3], 1, 2]).tokens == 0


def test_a_prefix_shorter_than_is_worth_it_is_computed() -> None:
    engine = _engine(min_hit_tokens=8)
    engine.run(A)
    assert engine.run([*A[:7], 1, 2]).tokens == 0
    assert engine.run([*A[:8], 1, 2]).tokens == 8


def test_copies_end_where_the_session_can_cut_them() -> None:
    engine = _engine(session=TokenSession(2, step=8))
    engine.run(A)
    assert engine.run([*A[:11], 1, 2]).tokens == 8
    engine.run([*B[:11], 1, 2])
    engine.run(C)
    assert engine.session.calls[-1][0] == "snapshot"
    assert {call[-1] for call in engine.session.calls} == {8}


def test_a_session_whose_copies_are_only_whole_gives_only_whole_ones() -> None:
    session = TokenSession(1, step=0)
    engine = _engine(session=session)
    engine.run(A)
    session.held[0] = A  # Nothing beyond what is known of.
    engine.run(B)
    assert engine.admit([*A[:10], 1, 2, 3]).tokens == 0
    engine.step()
    engine.finish("3")
    session.held[0] = session.held[0][:12]
    assert engine.run([*A, 5, 6]).tokens == 12


def test_a_session_that_cannot_crop_goes_on_from_a_copy() -> None:
    engine = _engine(session=TokenSession(2, crops=False))
    engine.run(A)
    plan = engine.run([*A, 7, 1])
    assert (plan.tokens, plan.in_place) == (12, False)


def test_a_session_without_snapshots_goes_on_in_place() -> None:
    engine = _engine(session=TokenSession(2, copies=False))
    engine.run(A)
    assert engine.run([*A, 7, 1]).in_place
    engine.run(B)
    engine.run(C)
    assert engine.session.calls == []
    assert engine.manager.entries == 2


def test_a_newer_entry_takes_the_place_of_those_that_it_begins_with() -> None:
    engine = _engine(slots=3)
    engine.run([*A, 1])
    engine.admit([*A, 2])
    engine.step()
    engine.finish("2")
    assert engine.manager.entries == 2
    engine.run([*A, 2, 7, 3])
    assert engine.manager.entries == 2


def test_a_copy_on_the_host_is_dropped_when_a_longer_one_is_kept() -> None:
    engine = _engine(slots=1)
    engine.run(A)
    engine.run(B)
    engine.run([*A, 7, 1])
    engine.step()
    assert engine.operations == [DropHost(2)]
    assert engine.manager.entries == 2


def test_no_more_are_kept_than_the_cap() -> None:
    engine = _engine(slots=4, max_entries=2)
    for tokens in (A, B, C):
        engine.run(tokens)
    assert engine.manager.entries == 2
    assert engine.run([*A, 7, 1]).tokens == 0
    assert Forget(0) in engine.operations


def test_without_room_on_the_host_the_least_recently_used_are_given_up() -> None:
    # Room for two of twelve tokens, of eight bytes each.
    engine = _engine(slots=1, max_host_bytes=2 * 12 * 8)
    for tokens in (A, B, C):
        engine.run(tokens)
    assert engine.executor.host_bytes == 2 * 12 * 8
    engine.run(range(50, 62))
    assert _said(engine, DropHost, CopyOut) == [DropHost(2), CopyOut(0, 6, 12)]
    assert engine.run([*B, 7, 1]).tokens == 12
    assert engine.run([*A, 7, 1]).tokens == 0


def test_what_would_never_fit_on_the_host_is_given_up() -> None:
    engine = _engine(slots=1, max_host_bytes=12 * 8 - 1)
    engine.run(A)
    engine.run(B)
    assert engine.session.calls == []
    assert engine.run([*A, 7, 1]).tokens == 0


def test_loads_that_take_longer_than_prefill_are_not_made() -> None:
    engine = _engine(slots=1)
    engine.run(A)
    engine.run(B)
    slow = Report()
    slow.prefill.add(100, 100.0)
    slow.loads.add(100, 95.0)
    engine.manager.take(slow)
    plan = engine.run([*A, 7, 1])
    assert (plan.tokens, plan.refused) == (0, True)
    assert engine.manager.tally.refused == 1
    # In place it costs nothing.
    assert engine.run([*A, 7, 1, 7, 2]).tokens == 14


def test_other_identities_never_match() -> None:
    engine = _engine()
    engine.run(A, who="salt")
    assert engine.run([*A, 7, 1]).tokens == 0
    assert engine.run([*A, 7, 1], who="salt").tokens == 12


def test_an_aborted_prompt_leaves_what_was_computed_of_it() -> None:
    engine = _engine()
    engine.admit([*A, *B])
    engine.step(chunk=8)
    engine.finish("1")
    assert engine.run([*A, *B]).tokens == 8


def test_a_preempted_request_leaves_nothing_and_starts_anew() -> None:
    engine = _engine()
    engine.admit(A)
    engine.step()
    engine.preempt("1")
    assert engine.manager.entries == 0
    assert engine.admit([*A, 1]).tokens == 0
    engine.step()
    engine.resume("1")
    engine.step()
    engine.finish("1")
    assert engine.run([*A, 7, 3]).tokens >= 12


def test_a_request_that_ends_without_a_slot_leaves_others_slots_alone() -> None:
    engine = _engine(slots=1)
    engine.admit(A)
    engine.step()
    engine.preempt("1")
    engine.admit(B)
    engine.step()
    engine.abort_preempted("1")
    assert engine.manager.slots_of(["1"]) == frozenset()
    engine.step()
    assert engine.operations == []
    engine.finish("2")
    assert engine.run([*B, 7, 1]).tokens == 13


def test_cleared_nothing_matches_and_running_requests_are_not_kept() -> None:
    engine = _engine(slots=3)
    engine.run(A)
    engine.admit(B)
    engine.step()
    engine.manager.clear()
    engine.finish("2")
    assert engine.manager.entries == 0
    assert engine.run([*A, 7, 1]).tokens == 0
    assert engine.run([*B, 7, 1]).tokens == 0
    assert engine.executor.host_bytes == 0


def test_what_a_failed_request_leaves_is_not_kept() -> None:
    engine = _engine(late=1)
    engine.admit(A)
    engine.step()
    engine.failing = {0}
    engine.step()
    engine.finish("1")  # Its failure isn't known yet.
    engine.failing = set()
    assert engine.manager.entries == 1
    engine.admit(B)
    engine.step()
    assert engine.manager.entries == 0
    assert engine.manager.tally.failures == 1


def test_a_load_that_fails_is_its_own_requests_matter_alone() -> None:
    engine = _engine(slots=2)
    for tokens in (A, B, C):
        engine.run(tokens)
    engine.session.out_of_memory = {"restore"}
    engine.admit([*A, 7, 1])
    engine.admit(range(50, 60))
    engine.step()
    assert engine.running["4"].computed == 12
    assert engine.running["5"].computed == 10
    tally = engine.manager.tally
    assert (tally.failed_loads, tally.failures) == (1, 0)
    # Nobody goes on from what isn't there.
    assert engine.manager.plan(prefix(*A, 7, 2), 99, [2]).tokens == 0


def test_everything_is_counted() -> None:
    engine = _engine(slots=1)
    engine.run(A)
    engine.run(B)
    engine.run([*A, 7, 1])
    engine.run([*A, 7, 1, 7, 2])
    tally = engine.manager.tally
    assert (tally.hits, tally.hit_tokens, tally.loads, tally.copy_outs) == (2, 12 + 14, 1, 2)
    assert engine.manager.host_bytes == engine.executor.host_bytes

"""The worker does what it is told, in the order given."""

from __future__ import annotations

import pytest

from vllm_npu_models.snapshots.executor import Executor
from vllm_npu_models.snapshots.operations import (
    Assign,
    CopyOut,
    CopySlot,
    DropHost,
    Forget,
    LoadHost,
    Operation,
)
from vllm_npu_runtime.errors import DeviceLostError

from .fakes import Slots, TokenSession


class Worker:
    """An executor on two slots that hold tokens."""

    def __init__(self, limit: int = 1000) -> None:
        self.session = TokenSession(3)
        self.session.held = [[1, 2, 3], [4, 5, 6], []]
        self.slots = Slots()
        self.executor = Executor(self.session, self.slots, limit)  # type: ignore[arg-type]

    def do(self, *operations: Operation, rows: set[int] | None = None) -> None:
        self.executor.begin(operations, frozenset(rows or ()))


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_what_is_copied_out_before_a_slot_is_overwritten_comes_back(worker: Worker) -> None:
    worker.do(CopyOut(0, 11, 3), CopySlot(1, 0, 2), LoadHost(11, 2, 2))
    assert worker.session.held == [[4, 5], [4, 5, 6], [1, 2]]
    worker.do(LoadHost(11, 1, 3))
    assert worker.session.held[1] == [1, 2, 3]


def test_a_copy_may_be_loaded_and_dropped_in_one_step(worker: Worker) -> None:
    worker.do(CopyOut(0, 11, 3), LoadHost(11, 2, 3), DropHost(11))
    assert worker.session.held[2] == [1, 2, 3]
    assert worker.executor.host_bytes == 0


def test_what_is_stored_is_reported_with_its_bytes(worker: Worker) -> None:
    worker.do(CopyOut(0, 11, 3), Forget(0))
    worker.executor.end()
    report = worker.executor.take_report()
    assert report is not None
    assert report.stored == {11: 24}
    assert worker.executor.take_report() is None


def test_times_are_reported_with_their_tokens(worker: Worker) -> None:
    worker.do(CopyOut(0, 11, 3), LoadHost(11, 2, 2), CopySlot(1, 0, 3))
    worker.executor.end()
    report = worker.executor.take_report()
    assert report is not None
    assert (report.loads.tokens, report.slot_copies.tokens) == (2, 3)
    assert report.loads.milliseconds > 0


@pytest.mark.parametrize(("prefill", "measured"), [(6, 10), (5, 0), (0, 0)])
def test_only_steps_that_mostly_read_prompts_say_what_prefill_takes(
    worker: Worker, prefill: int, measured: int
) -> None:
    worker.executor.begin((), frozenset({0}), tokens=10, prefill_tokens=prefill)
    worker.executor.end()
    report = worker.executor.take_report()
    assert (0 if report is None else report.prefill.tokens) == measured


def test_nothing_beyond_the_limit_is_kept_on_the_host() -> None:
    worker = Worker(limit=24)
    worker.do(CopyOut(0, 11, 3), CopyOut(1, 12, 1))
    worker.executor.end()
    report = worker.executor.take_report()
    assert report is not None
    assert (set(report.stored), report.lost) == ({11}, {12})
    assert worker.executor.host_bytes == 24


def test_a_copy_out_that_fails_is_lost_and_hurts_nobody(worker: Worker) -> None:
    worker.session.out_of_memory = {"snapshot"}
    worker.do(CopyOut(0, 11, 3), rows={0, 1})
    assert worker.executor.end() == set()
    report = worker.executor.take_report()
    assert report is not None
    assert report.lost == {11}


def test_a_load_that_fails_marks_its_slot_for_this_request_once(worker: Worker) -> None:
    worker.do(Assign(2, "request"), LoadHost(99, 2, 2), rows={2})
    assert worker.slots.failed == {2}
    assert worker.executor.end() == {2}
    report = worker.executor.take_report()
    assert report is not None
    assert (report.unfilled, report.failed, report.lost) == ({"request"}, set(), {99})
    # The step scheduled ahead has it still: to be skipped, but not told again.
    worker.do(rows={2})
    assert worker.slots.failed == {2}
    worker.executor.end()
    assert worker.executor.take_report() is None


def test_a_slot_that_failed_is_skipped_until_another_request_begins_in_it(worker: Worker) -> None:
    worker.do(Assign(0, "one"), rows={0})
    worker.slots.failed |= {0}
    assert worker.executor.end() == {0}
    worker.do(rows={1})
    assert worker.slots.failed == {0}
    assert worker.executor.end() == set()
    worker.do(Assign(0, "two"), rows={0})
    assert worker.slots.failed == set()
    assert worker.executor.end() == set()


@pytest.mark.parametrize("how", ["in place", "from it", "to the host"])
def test_nobody_goes_on_from_a_slot_that_failed(worker: Worker, how: str) -> None:
    worker.do(Assign(0, "one"), rows={0})
    worker.slots.failed |= {0}
    worker.executor.end()
    worker.executor.take_report()
    operations: dict[str, list[Operation]] = {
        "in place": [Assign(0, "two", kept=3)],
        "from it": [Assign(2, "two"), CopySlot(0, 2, 3)],
        "to the host": [CopyOut(0, 11, 3), Assign(2, "two"), LoadHost(11, 2, 3)],
    }
    worker.do(*operations[how], rows={0, 2})
    worker.executor.end()
    report = worker.executor.take_report()
    assert report is not None
    assert report.unfilled == {"two"}


def test_a_lost_device_is_no_matter_of_one_request(worker: Worker) -> None:
    def lost(*_: object) -> None:
        raise DeviceLostError("It is gone.")

    worker.session.copy = lost  # type: ignore[method-assign]
    with pytest.raises(DeviceLostError):
        worker.do(CopySlot(0, 2, 1))

"""The worker's side: does to the session what the scheduler's side decided."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Protocol

from vllm_npu_models.snapshots.operations import (
    Assign,
    CopyOut,
    CopySlot,
    DropHost,
    Forget,
    LoadHost,
    Operation,
    Report,
    Spent,
)
from vllm_npu_runtime.errors import BadShapeError, DeviceLostError
from vllm_npu_runtime.sessions.base import Session, Snapshot

_logger = logging.getLogger("vllm.npu")


class FailedSlots(Protocol):
    """Where the model says which slots' requests failed, and is told which it must skip.

    Attributes:
        failed: slots. Those that are in it before a step hold nothing: their rows are to be
            skipped.
    """

    failed: set[int]


class Executor:
    """Snapshots on the host, and which slots hold nothing since they failed."""

    def __init__(self, session: Session, slots: FailedSlots, max_host_bytes: int) -> None:
        self._session = session
        self._slots = slots
        self._max_host_bytes = max_host_bytes
        self._snapshots: dict[int, Snapshot] = {}
        self._owners: dict[int, str] = {}
        self._broken: set[int] = set()
        self._unfilled: set[int] = set()
        self._unfilled_now: set[int] = set()
        self._rows: frozenset[int] = frozenset()
        self._step = Spent()
        self._report = Report()
        self._began = 0.0

    @property
    def host_bytes(self) -> int:
        """That snapshots take."""
        return sum(each.nbytes for each in self._snapshots.values())

    def begin(
        self,
        operations: Iterable[Operation],
        rows: frozenset[int] = frozenset(),
        tokens: int = 0,
        prefill_tokens: int = 0,
    ) -> None:
        """Before a step's forward pass.

        Args:
            operations: to do, in this order.
            rows: slots with tokens in the step.
            tokens: of the step.
            prefill_tokens: of these, those of prompts.

        Raises:
            DeviceLostError: the device is gone.
        """
        self._unfilled_now.clear()
        for operation in operations:
            self._do(operation)
        self._rows = rows
        self._slots.failed.clear()
        self._slots.failed.update(self._broken)
        # A step that mostly decodes says little about how long prompts take.
        self._step.tokens = tokens if 2 * prefill_tokens > tokens else 0
        self._began = time.perf_counter()

    def end(self) -> set[int]:
        """After a step's forward pass: the slots in it that failed, or hold nothing as their
        prefix couldn't be loaded."""
        spent = 1e3 * (time.perf_counter() - self._began)
        self._broken |= self._slots.failed
        self._slots.failed.clear()
        failed = self._broken & self._rows
        self._rows = frozenset()
        # A slot stays unfilled for its request, which is told once: it may be in another by then.
        self._report.unfilled |= self._owners_of(failed & self._unfilled_now)
        self._report.failed |= self._owners_of(failed - self._unfilled)
        if self._step.tokens and not failed:
            self._report.prefill.add(self._step.tokens, spent)
        return failed

    def take_report(self) -> Report | None:
        """What was found out since the last time; None: nothing."""
        taken, self._report = self._report, Report()
        return None if taken == Report() else taken

    def close(self) -> None:
        """Free the host's memory."""
        self._snapshots.clear()

    def _do(self, operation: Operation) -> None:
        match operation:
            case Assign(slot, request, kept):
                self._owners[slot] = request
                if not kept:  # It begins from nothing, or is filled by an operation to come.
                    self._broken.discard(slot)
                    self._unfilled.discard(slot)
                elif slot in self._broken:
                    self._leave_unfilled(slot)
            case CopyOut(slot, entry, tokens):
                self._copy_out(slot, entry, tokens)
            case CopySlot():
                self._copy_slot(operation)
            case LoadHost():
                self._load(operation)
            case DropHost(entry):
                self._snapshots.pop(entry, None)
            case Forget(slot):
                self._session.forget(slot)

    def _owners_of(self, slots: set[int]) -> set[str]:
        return {self._owners[slot] for slot in slots if slot in self._owners}

    def _copy_out(self, slot: int, entry: int, tokens: int) -> None:
        try:
            self._refuse_broken(slot)
            snapshot = self._session.snapshot(slot, tokens)
        except DeviceLostError:
            raise
        except (RuntimeError, MemoryError) as error:
            _logger.warning("A prefix of %d tokens is given up: %s", tokens, error)
            self._report.lost.add(entry)
            return
        if self.host_bytes + snapshot.nbytes > self._max_host_bytes:
            self._report.lost.add(entry)
            return
        self._snapshots[entry] = snapshot
        self._report.stored[entry] = snapshot.nbytes

    def _copy_slot(self, operation: CopySlot) -> None:
        began = time.perf_counter()
        try:
            self._refuse_broken(operation.source)
            self._session.copy(operation.source, operation.target, operation.tokens)
        except DeviceLostError:
            raise
        except (RuntimeError, MemoryError) as error:
            self._fail(operation.target, error)
            return
        self._report.slot_copies.add(operation.tokens, 1e3 * (time.perf_counter() - began))

    def _load(self, operation: LoadHost) -> None:
        began = time.perf_counter()
        try:
            snapshot = self._fitting(operation.entry)
            self._session.restore(operation.slot, snapshot, operation.tokens)
        except DeviceLostError:
            raise
        except (RuntimeError, MemoryError) as error:
            self._snapshots.pop(operation.entry, None)
            self._report.lost.add(operation.entry)
            self._fail(operation.slot, error)
            return
        self._report.loads.add(operation.tokens, 1e3 * (time.perf_counter() - began))

    def _fitting(self, entry: int) -> Snapshot:
        snapshot = self._snapshots.get(entry)
        if snapshot is None:
            raise BadShapeError(f"Snapshot {entry} isn't on the host.")
        if snapshot.identity != self._session.identity:
            raise BadShapeError(
                f"Snapshot {entry} is of '{snapshot.identity}'; the session is "
                f"'{self._session.identity}'."
            )
        return snapshot

    def _refuse_broken(self, slot: int) -> None:
        if slot in self._broken:
            raise BadShapeError(f"Slot {slot} holds nothing: its request failed.")

    def _fail(self, slot: int, error: BaseException) -> None:
        _logger.warning("A prefix can't be loaded into slot %d: %s", slot, error)
        self._leave_unfilled(slot)

    def _leave_unfilled(self, slot: int) -> None:
        self._broken.add(slot)
        self._unfilled.add(slot)
        self._unfilled_now.add(slot)

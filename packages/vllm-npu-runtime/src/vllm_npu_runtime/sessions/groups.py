"""Several boards as one session: each serves a share of the slots.

Slots go round: slot `s` is slot `s // K` of board `s % K`. Each board has a thread of its own,
so that the rows of a step run on all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch

from vllm_npu_runtime.errors import DeviceError, DeviceLostError
from vllm_npu_runtime.sessions.base import Row, Session, Snapshot, StepOutput
from vllm_npu_runtime.sessions.lifetime import Lifetime
from vllm_npu_runtime.sessions.slots import Slots

Given = TypeVar("Given")
Made = TypeVar("Made")


def share(slots: int, boards: int) -> int:
    """Slots of each board, so that together they have at least `slots`."""
    return -(-slots // boards)


class SessionGroup:
    """Sessions of the same artifact on several boards.

    Args:
        boards: sessions alike, with `share(slots, len(boards))` slots each. The group closes
            them.
        slots: of the group.
    """

    def __init__(self, boards: Sequence[Session], slots: int) -> None:
        self._boards = list(boards)
        self.capabilities = replace(boards[0].capabilities, slots=slots)
        self.identity = boards[0].identity
        self._slots = Slots(self.capabilities)
        self._lifetime = Lifetime(self.describe())
        self._threads = [ThreadPoolExecutor(1, f"npu-board-{i}") for i in range(len(boards))]

    @property
    def memory(self) -> int:
        """See `Session.memory`; of all boards together."""
        return sum(board.memory for board in self._boards)

    @property
    def slot_bytes(self) -> int:
        """See `Session.slot_bytes`."""
        return self._boards[0].slot_bytes

    def describe(self) -> str:
        """See `Session.describe`."""
        return f"{len(self._boards)} boards of {self._boards[0].describe()}"

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Session.embed`."""
        return self._boards[0].embed(tokens)

    def infer(self, rows: Sequence[Row]) -> StepOutput:
        """See `Session.infer`; a board that is lost takes the group with it."""
        with self._lifetime.turn():
            self._slots.check_rows(rows)
            try:
                return self._infer(rows)
            except DeviceLostError as error:
                self._lifetime.lose(error)
                raise

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Session.logits`; each board makes a share of them."""
        with self._lifetime.turn():
            parts = hidden.tensor_split(len(self._boards))
            started = [
                self._start(index, board.logits, part)
                for index, (board, part) in enumerate(zip(self._boards, parts, strict=True))
                if len(part)
            ]
            results = _results(started)
            return torch.cat(results) if results else self._boards[0].logits(hidden)

    def snapshot(self, slot: int, tokens: int) -> Snapshot:
        """See `Session.snapshot`."""
        with self._lifetime.turn():
            self._slots.check_source(slot, tokens)
            return self._board(slot).snapshot(self._local(slot), tokens)

    def restore(self, slot: int, snapshot: Snapshot, tokens: int) -> None:
        """See `Session.restore`; the snapshot may come from any of the boards."""
        with self._lifetime.turn():
            self._slots.check_restore(slot, snapshot, tokens, self.identity)
            self._board(slot).restore(self._local(slot), snapshot, tokens)
            self._slots.hold(slot, tokens)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """See `Session.copy`; from one board to another by way of the host."""
        with self._lifetime.turn():
            self._slots.check_source(source, tokens)
            self._slots.check_slot(target)
            begin, end = self._board(source), self._board(target)
            if begin is end:
                begin.copy(self._local(source), self._local(target), tokens)
            else:
                copied = begin.snapshot(self._local(source), tokens)
                end.restore(self._local(target), copied, tokens)
            self._slots.hold(target, tokens)

    def forget(self, slot: int) -> None:
        """See `Session.forget`."""
        with self._lifetime.turn():
            self._slots.check_slot(slot)
            self._board(slot).forget(self._local(slot))
            self._slots.hold(slot, 0)

    def close(self) -> None:
        """See `Session.close`."""
        self._lifetime.close(self._free)

    def _free(self) -> None:
        for thread in self._threads:
            thread.shutdown()
        for board in self._boards:
            board.close()

    def _board(self, slot: int) -> Session:
        return self._boards[slot % len(self._boards)]

    def _local(self, slot: int) -> int:
        return slot // len(self._boards)

    def _start(self, board: int, call: Callable[[Given], Made], given: Given) -> Future[Made]:
        return self._threads[board].submit(call, given)

    def _infer(self, rows: Sequence[Row]) -> StepOutput:
        shares: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            shares.setdefault(row.slot % len(self._boards), []).append(index)
        started = {
            board: self._start(
                board,
                self._boards[board].infer,
                [replace(rows[i], slot=self._local(rows[i].slot)) for i in indices],
            )
            for board, indices in shares.items()
        }
        values: list[torch.Tensor] = [torch.empty(0)] * len(rows)
        failed: dict[int, DeviceError] = {}
        for board, indices in shares.items():
            if started[board].exception() is not None:
                continue  # it refused before it ran, or it is lost
            output = started[board].result()
            parts = output.values.split([rows[i].count for i in indices])
            failed |= {indices[at]: error for at, error in output.failed.items()}
            for index, part in zip(indices, parts, strict=True):
                values[index] = part
                tokens = 0 if index in failed else rows[index].past + rows[index].count
                self._slots.hold(rows[index].slot, tokens)
        _results(list(started.values()))
        return StepOutput(torch.cat(values), failed)


def _results(started: list[Future[Made]]) -> list[Made]:
    """What the boards gave, once all have ended; of several errors the gravest."""
    errors = [error for each in started if (error := each.exception()) is not None]
    if errors:
        raise next((e for e in errors if isinstance(e, DeviceLostError)), errors[0])
    return [each.result() for each in started]

"""How many tokens each slot holds, and whether a step or a copy goes with that."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vllm_npu_runtime.errors import BadShapeError, ConfigurationError
from vllm_npu_runtime.sessions.base import Row, SessionCapabilities, Snapshot


class Slots:
    """The tokens that slots hold.

    Args:
        capabilities: of the session.
    """

    def __init__(self, capabilities: SessionCapabilities) -> None:
        self._can = capabilities
        self._held = [0] * capabilities.slots

    def held(self, slot: int) -> int:
        """Tokens in a slot."""
        return self._held[slot]

    def hold(self, slot: int, tokens: int) -> None:
        """The slot holds this many now; 0 for nothing."""
        self._held[slot] = tokens

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Refuse a step before any of it runs.

        Raises:
            BadShapeError: names every row that doesn't fit, and why.
        """
        problems = [
            f"row {index}: {problem}"
            for index, row in enumerate(rows)
            if (problem := self._problem(row))
        ]
        slots = [row.slot for row in rows]
        problems += [
            f"slot {slot} stands in {count} rows"
            for slot in sorted(set(slots))
            if (count := slots.count(slot)) > 1
        ]
        if not rows:
            problems.append("it has no rows")
        if problems:
            raise BadShapeError(f"This step can't run: {'; '.join(problems)}.")

    def check_slot(self, slot: int) -> None:
        """Raise `BadShapeError` if there is no such slot."""
        if problem := self._slot_problem(slot):
            raise BadShapeError(f"{problem[0].upper()}{problem[1:]}.")

    def check_source(self, slot: int, tokens: int) -> None:
        """Refuse to copy a slot's first tokens.

        Raises:
            ConfigurationError: the session has no snapshots.
            BadShapeError: the slot holds fewer, or its first tokens alone can't be copied exactly.
        """
        self._check_snapshots()
        self.check_slot(slot)
        held = self._held[slot]
        if not 0 < tokens <= held:
            raise BadShapeError(f"Slot {slot} holds {held} tokens: {tokens} can't be copied.")
        self._check_part(tokens, held)

    def check_restore(self, slot: int, snapshot: Snapshot, tokens: int, identity: str) -> None:
        """Refuse to make a slot hold a snapshot's first tokens.

        Raises:
            ConfigurationError: the session has no snapshots.
            BadShapeError: the snapshot is of another kind, holds fewer tokens or more than fit,
                or its first tokens alone aren't exact.
        """
        self._check_snapshots()
        self.check_slot(slot)
        if snapshot.identity != identity:
            raise BadShapeError(
                f"A snapshot of '{snapshot.identity}' can't be loaded into '{identity}': artifact, "
                "KV cache dtype and layout must be the same."
            )
        most = min(snapshot.tokens, self._can.max_length)
        if not 0 < tokens <= most:
            raise BadShapeError(
                f"{tokens} tokens can't be restored: the snapshot holds {snapshot.tokens}, and a "
                f"slot at most {self._can.max_length}."
            )
        self._check_part(tokens, snapshot.tokens)

    def _check_snapshots(self) -> None:
        if not self._can.snapshots:
            raise ConfigurationError(
                "This session can't copy its slots: the runtime doesn't show their keys and "
                "values. Turn prefix reuse off."
            )

    def _check_part(self, tokens: int, whole: int) -> None:
        step = self._can.snapshot_step
        if tokens != whole and (not step or tokens % step):
            exact = f"a multiple of {step} tokens, or all" if step else "all tokens"
            raise BadShapeError(
                f"The first {tokens} of {whole} tokens aren't exact without the rest: take "
                f"{exact} {whole}."
            )

    def _problem(self, row: Row) -> str | None:
        can = self._can
        if (problem := self._slot_problem(row.slot)) or (problem := _values_problem(row, can)):
            return problem
        held = self._held[row.slot]
        if not 0 <= row.past <= held:
            return f"goes on from {row.past} tokens; slot {row.slot} holds {held}"
        if row.past not in (0, held) and not can.crops:
            return (
                f"goes on from {row.past} tokens; slot {row.slot} holds {held}, and this session "
                "can't forget the last ones"
            )
        if row.past + row.count > can.max_length:
            return f"ends at {row.past + row.count} tokens; a slot holds {can.max_length}"
        if can.max_tokens is not None and row.count > can.max_tokens:
            return f"has {row.count} tokens; a row takes at most {can.max_tokens}"
        return None

    def _slot_problem(self, slot: int) -> str | None:
        if 0 <= slot < self._can.slots:
            return None
        return f"there is no slot {slot}; there are {self._can.slots}, from 0"


def _values_problem(row: Row, can: SessionCapabilities) -> str | None:
    """What is wrong with a row's tokens or embeddings, by shape and dtype."""
    if (row.tokens is None) == (row.embeddings is None):
        return "needs either tokens or embeddings"
    if row.tokens is not None:
        if row.tokens.ndim != 1 or row.tokens.dtype != torch.int64:
            return (
                f"tokens are {row.tokens.dtype} {list(row.tokens.shape)}; they must be torch.int64 "
                "[n]"
            )
    elif row.embeddings is not None and (
        row.embeddings.ndim != 2
        or row.embeddings.shape[1] != can.hidden_size
        or not row.embeddings.is_floating_point()
    ):
        return (
            f"embeddings are {row.embeddings.dtype} {list(row.embeddings.shape)}; they must be "
            f"floating-point [n, {can.hidden_size}]"
        )
    return None if row.count else "has no tokens"

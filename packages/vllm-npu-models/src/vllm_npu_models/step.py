"""One step of vLLM's as one or more steps of a session."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING

import torch

from vllm_npu_runtime.sessions.base import Gives, Row

if TYPE_CHECKING:
    from vllm_npu_models.slots import SlotMetadata
    from vllm_npu_runtime.sessions.base import Session

_logger = logging.getLogger("vllm.npu")

Piece = tuple[int, Row]
"""Where a row's tokens begin in vLLM's step, and the row."""


def run_step(
    session: Session,
    step: SlotMetadata,
    tokens: int,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    empty: Set[int] = frozenset(),
) -> tuple[torch.Tensor, set[int]]:
    """Run what vLLM scheduled.

    Args:
        session: that runs it.
        step: whose tokens are whose.
        tokens: in the step, padding included.
        input_ids: `[tokens]`, unless there are embeddings.
        inputs_embeds: `[tokens, hidden_size]`, or None.
        empty: slots that hold nothing, as an earlier step failed there: vLLM schedules ahead, and
            their rows are left out.

    Returns:
        Values `[tokens, width]`, and the slots whose rows failed, `empty` ones included.
    """
    failed = set(empty)
    values: torch.Tensor | None = None
    for pieces in _rounds(session, step, input_ids, inputs_embeds):
        pieces = [piece for piece in pieces if piece[1].slot not in failed]
        if not pieces:
            continue
        output = session.infer([row for _, row in pieces])
        for index, error in output.failed.items():
            slot = pieces[index][1].slot
            failed.add(slot)
            _logger.error("The request in slot %d fails: %s", slot, error)
        if values is None and _covers(pieces, tokens):
            return output.values, failed
        if values is None:
            values = output.values.new_zeros(tokens, output.values.shape[1])
        begin = 0
        for start, row in pieces:
            values[start : start + row.count] = output.values[begin : begin + row.count]
            begin += row.count
    if values is None:
        values = nothing(session, tokens)
    return values, failed


def nothing(session: Session, tokens: int) -> torch.Tensor:
    """Values of a step in which nothing is computed, `[tokens, width]`."""
    limits = session.capabilities
    width = limits.hidden_size if limits.gives is Gives.HIDDEN else limits.vocab_size
    return torch.zeros(tokens, width)


def _rounds(
    session: Session,
    step: SlotMetadata,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
) -> Iterator[list[Piece]]:
    """Rows of no more tokens than the session takes; what is left goes into the next round.

    vLLM's scheduler is set to the session's limit, but gives a request that is alone in a step
    all of the budget.
    """
    most = session.capabilities.max_tokens
    left = [
        (start, end, slot, past)
        for start, end, slot, past in zip(
            step.starts, step.starts[1:], step.slots, step.pasts, strict=False
        )
        if end > start
    ]
    while left:
        pieces, rest = [], []
        for start, end, slot, past in left:
            stop = end if most is None else min(end, start + most)
            pieces.append((start, _row(slot, past, start, stop, input_ids, inputs_embeds)))
            if stop < end:
                rest.append((stop, end, slot, past + stop - start))
        yield pieces
        left = rest


def _row(
    slot: int,
    past: int,
    start: int,
    stop: int,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
) -> Row:
    if inputs_embeds is not None:
        return Row(slot, past, embeddings=inputs_embeds[start:stop])
    if input_ids is None:
        raise RuntimeError("vLLM gave neither token ids nor embeddings.")
    return Row(slot, past, tokens=input_ids[start:stop].to(torch.int64))


def _covers(pieces: Sequence[Piece], tokens: int) -> bool:
    """Whether the pieces are the whole step, in its order."""
    end = 0
    for start, row in pieces:
        if start != end:
            return False
        end += row.count
    return end == tokens

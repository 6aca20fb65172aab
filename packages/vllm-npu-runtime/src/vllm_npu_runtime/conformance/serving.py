"""Requests served by a session in slots, as an engine does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from vllm_npu_runtime.conformance.checkpoint import Request
from vllm_npu_runtime.sessions.base import Row, Session


@dataclass
class _Running:
    """A request in a slot.

    Attributes:
        index: among the requests.
        tokens: prompt and answer so far.
        done: tokens that the slot holds.
    """

    index: int
    tokens: list[int]
    done: int = 0
    answer: list[int] = field(default_factory=list)


def serve(
    session: Session, requests: Sequence[Request], chunk: int, preempt_every: int = 0
) -> list[tuple[int, ...]]:
    """Answers to requests: prompts in chunks, mixed with single tokens, slots used anew.

    Args:
        session: has any number of slots.
        requests: their answers tell only how long an answer is to be.
        chunk: most tokens of a prompt in a step.
        preempt_every: steps after which the request in the highest slot loses it, and begins
            anew later; 0: never.
    """
    waiting = [_Running(index, list(each.prompt)) for index, each in enumerate(requests)]
    running: dict[int, _Running] = {}
    answers: list[tuple[int, ...]] = [()] * len(requests)
    step = 0
    while waiting or running:
        step += 1
        for slot in range(session.capabilities.slots):
            if slot not in running and waiting:
                running[slot] = waiting.pop(0)
        taken = list(running.items())
        rows = [
            Row(slot, each.done, torch.tensor(each.tokens[each.done : each.done + chunk]))
            for slot, each in taken
        ]
        output = session.infer(rows)
        assert not output.failed, output.failed
        parts = output.values.split([row.count for row in rows])
        for (slot, each), row, part in zip(taken, rows, parts, strict=True):
            each.done += row.count
            if each.done < len(each.tokens):
                continue
            token = int(session.logits(part[-1:]).argmax())
            each.tokens.append(token)
            each.answer.append(token)
            if len(each.answer) == len(requests[each.index].answer):
                answers[each.index] = tuple(each.answer)
                session.forget(slot)
                del running[slot]
        if preempt_every and step % preempt_every == 0 and running:
            lost = running.pop(max(running))
            lost.done = 0
            waiting.append(lost)
    return answers


def feed(session: Session, slot: int, tokens: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """Put tokens into a slot one after another; their outputs, `[end - begin, width]`.

    One at a time, so that two ways to the same tokens do the same sums in the same order.
    """
    rows = (Row(slot, at, tokens[at : at + 1]) for at in range(begin, end))
    return torch.cat([session.infer([row]).values.clone() for row in rows])

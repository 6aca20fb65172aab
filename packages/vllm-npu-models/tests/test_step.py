"""A step of vLLM's as steps of a session: chunks, order, embeddings, failures."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_npu_models.slots import SlotMetadata
from vllm_npu_models.step import run_step
from vllm_npu_runtime.errors import DeviceError, DeviceLostError
from vllm_npu_runtime.sessions.base import Gives, Row, StepOutput


class Counting:
    """A session on paper: a token's value is [slot, position, token], and a slot only takes
    tokens that go on from what it holds."""

    def __init__(self, max_tokens: int | None = None, failing: int | None = None) -> None:
        self.capabilities = SimpleNamespace(max_tokens=max_tokens)
        self.held: dict[int, int] = {}
        self.steps: list[list[int]] = []
        self._failing = failing
        self._values = torch.empty(0, 3)

    def infer(self, rows: Sequence[Row]) -> StepOutput:
        self.steps.append([row.count for row in rows])
        values, failed = [], {}
        for index, row in enumerate(rows):
            assert self.held.get(row.slot, 0) == row.past
            given = row.tokens if row.tokens is not None else row.embeddings[:, 0].long()
            if row.slot == self._failing:
                failed[index] = DeviceError("injected")
                values.append(torch.zeros(row.count, 3))
                continue
            self.held[row.slot] = row.past + row.count
            positions = torch.arange(row.past, row.past + row.count)
            slots = torch.full((row.count,), row.slot)
            values.append(torch.stack([slots, positions, given], dim=1).float())
        # As devices do: the memory is used again by the next step.
        self._values.zero_()
        self._values = torch.cat(values)
        return StepOutput(self._values, failed)


def metadata(*requests: tuple[int, int, int]) -> SlotMetadata:
    """Of requests, each as (slot, tokens before, new tokens)."""
    starts = [0]
    for _, _, count in requests:
        starts.append(starts[-1] + count)
    return SlotMetadata(
        [slot for slot, _, _ in requests], starts, [past for _, past, _ in requests]
    )


def run(session: Any, step: SlotMetadata, padded: int = 0) -> tuple[list[list[float]], set[int]]:
    tokens = step.starts[-1] + padded
    values, failed = run_step(session, step, tokens, torch.arange(tokens, dtype=torch.int32), None)
    return values.tolist(), failed


def test_a_packed_step_goes_to_the_session_as_it_is() -> None:
    session = Counting()
    values, failed = run(session, metadata((2, 0, 3), (0, 0, 1)))
    assert values == [[2, 0, 0], [2, 1, 1], [2, 2, 2], [0, 0, 3]]
    assert (session.steps, failed) == ([[3, 1]], set())


def test_a_long_row_goes_in_pieces_that_the_session_takes() -> None:
    session = Counting(max_tokens=4)
    values, _ = run(session, metadata((0, 0, 9), (1, 0, 2)))
    assert values == [[0, n, n] for n in range(9)] + [[1, 0, 9], [1, 1, 10]]
    assert session.steps == [[4, 2], [4], [1]]


def test_rows_go_on_from_their_past() -> None:
    session = Counting(max_tokens=2)
    session.held = {5: 7}
    assert run(session, metadata((5, 7, 3)))[0] == [[5, 7, 0], [5, 8, 1], [5, 9, 2]]


def test_padding_is_zeros() -> None:
    assert run(Counting(), metadata((0, 0, 2)), padded=2)[0][2:] == [[0, 0, 0], [0, 0, 0]]


def test_requests_without_tokens_in_the_step_are_left_out() -> None:
    session = Counting()
    run(session, metadata((0, 0, 2), (1, 0, 0), (2, 0, 1)))
    assert session.steps == [[2, 1]]


def test_embeddings_take_the_place_of_ids() -> None:
    embeddings = torch.tensor([[7.0, 0.0], [9.0, 0.0]])
    values, _ = run_step(Counting(), metadata((1, 0, 2)), 2, None, embeddings)  # type: ignore[arg-type]
    assert values.tolist() == [[1, 0, 7], [1, 1, 9]]


def test_a_row_that_fails_leaves_the_others_whole() -> None:
    session = Counting(max_tokens=2, failing=1)
    values, failed = run(session, metadata((0, 0, 3), (1, 0, 3), (2, 0, 1)))
    assert failed == {1}
    assert values[:3] == [[0, 0, 0], [0, 1, 1], [0, 2, 2]] and values[6] == [2, 0, 6]
    assert session.steps == [[2, 2, 1], [1]]  # The failed request isn't asked again.


def test_slots_that_hold_nothing_are_left_out() -> None:
    """An earlier step failed there, and this one was scheduled already."""
    session: Any = Counting()
    step = metadata((0, 5, 1), (1, 0, 2))
    values, failed = run_step(session, step, 3, torch.arange(3), None, {0})
    assert values.tolist() == [[0, 0, 0], [1, 0, 1], [1, 1, 2]]
    assert (session.steps, failed) == ([[2]], {0})


def test_a_step_of_such_slots_alone_computes_nothing() -> None:
    session: Any = Counting()
    session.capabilities = SimpleNamespace(max_tokens=None, gives=Gives.HIDDEN, hidden_size=3)
    values, failed = run_step(session, metadata((0, 5, 1)), 1, torch.arange(1), None, {0})
    assert (values.tolist(), session.steps, failed) == ([[0, 0, 0]], [], {0})


def test_a_lost_device_is_not_a_request_s_failure() -> None:
    class Lost(Counting):
        def infer(self, rows: Sequence[Row]) -> StepOutput:
            raise DeviceLostError("gone")

    with pytest.raises(DeviceLostError):
        run(Lost(), metadata((0, 0, 1)))

"""One step on one copy of a model, in as many runs as its limits ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vllm_npu_runtime.errors import DeviceError
from vllm_npu_runtime.mobilint.vendor import Floats, Model, Piece


@dataclass(frozen=True)
class Work:
    """One row of a step.

    Attributes:
        row: its number in the step.
        cache_id: number of its cache in the model.
        past: tokens that the cache holds.
        inputs: embeddings, `[n, hidden_size]`.
        begin: where its values begin in the step's.
    """

    row: int
    cache_id: int
    past: int
    inputs: Floats
    begin: int


class Values:
    """Logits of a step's tokens, in memory that is used again by the next step.

    Args:
        vocab_size: logits of a token.
        every_token: a model gives logits of every token; else of the last of each run, and the
            others are NaN, so that nobody takes them for logits.
    """

    def __init__(self, vocab_size: int, every_token: bool) -> None:
        self._every_token = every_token
        self._rows: Floats = np.empty((0, vocab_size), np.float32)
        self._written: list[int | slice] = []

    def start(self, tokens: int) -> Floats:
        """Values for so many tokens, `[tokens, vocab_size]`."""
        if len(self._rows) < tokens:
            shape = (tokens, self._rows.shape[1])
            whole = np.empty(shape, np.float32)
            self._rows = whole if self._every_token else np.full(shape, np.nan, np.float32)
        elif not self._every_token:
            for place in self._written:
                self._rows[place] = np.nan
        self._written = []
        return self._rows[:tokens]

    def write(self, place: int | slice, logits: Floats | float) -> None:
        """Put logits where their tokens stand."""
        self._rows[place] = logits
        self._written.append(place)


def run(model: Model, work: Sequence[Work], most: int, values: Values) -> None:
    """Run rows on a copy of a model.

    Args:
        model: the copy.
        work: rows, each of another cache.
        most: tokens of a row in one run.
        values: where logits go.

    Raises:
        DeviceError: the runtime gave logits of another number of tokens.
    """
    for each in work:
        if each.past == 0:
            model.begin(each.cache_id)
    for share in _runs(model, work, most):
        pieces = [piece for _, piece in share]
        logits = model.infer(pieces)
        counts = [len(piece.inputs) for piece in pieces]
        at = 0
        for index, ((begin, _), count) in enumerate(zip(share, counts, strict=True)):
            if len(logits) == sum(counts):
                values.write(slice(begin, begin + count), logits[at : at + count])
            elif len(logits) == len(counts):
                values.write(begin + count - 1, logits[index])
            else:
                raise DeviceError(
                    f"The runtime gave logits of {len(logits)} tokens for {sum(counts)} tokens "
                    f"of {len(counts)} requests."
                )
            at += count


def _runs(model: Model, work: Sequence[Work], most: int) -> Iterator[list[tuple[int, Piece]]]:
    """What goes into each run: pieces, and where their values begin."""
    for start in range(0, max(len(each.inputs) for each in work), most):
        pieces = [
            (
                each.begin + start,
                Piece(each.cache_id, each.past + start, each.inputs[start : start + most]),
            )
            for each in work
            if start < len(each.inputs)
        ]
        if model.batches > 1:
            yield pieces
        else:
            yield from ([piece] for piece in pieces)

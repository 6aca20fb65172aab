"""Seeded requests whose prompt is read in chunks.

A chunk that isn't the last one samples a token that is thrown away, and vLLM takes back what
the request's generator has drawn for it, by ``generator.set_offset(…)`` in `_bookkeeping_sync`
of `vllm/v1/worker/gpu_model_runner.py`. A generator on the host has no offset and raises, which
would end the engine. Here the state before the draw is kept, and restored instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class GeneratorStates:
    """States of the generators whose draws in this step will be thrown away."""

    def __init__(self) -> None:
        self._states: dict[int, torch.Tensor] = {}

    def save(self, generators: dict[int, torch.Generator], discarded: np.ndarray) -> None:
        """Keep the states from before the draw.

        Args:
            generators: by row of the batch; rows without a seed have none.
            discarded: rows whose token is thrown away.
        """
        rows = (int(row) for row in discarded)
        self._states = {row: generators[row].get_state() for row in rows if row in generators}

    @contextmanager
    def rewound(self, generators: dict[int, torch.Generator]) -> Iterator[None]:
        """Restore them, and keep them out of vLLM's sight, which would rewind them again."""
        hidden = {row: generators.pop(row) for row in self._states if row in generators}
        for row, generator in hidden.items():
            generator.set_state(self._states[row])
        self._states = {}
        try:
            yield
        finally:
            generators.update(hidden)

"""What a paged step reads beside the caches: written in place, bound anew only if sizes change.

From one decoding step to the next nothing changes size but every 32 tokens the list of blocks,
so that a step costs the host a few writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import torch

from vllm_npu_runtime.openvino.attention import BLOCK_SIZE
from vllm_npu_runtime.sessions.base import Row


class _Input:
    """One input, whose first extent varies.

    Args:
        request: that reads it.
        port: of the input.
        dtype: of its elements.
        rest: its other extents.
    """

    def __init__(
        self,
        request: ov.InferRequest,
        port: ov.ConstOutput,
        dtype: npt.DTypeLike,
        rest: tuple[int, ...] = (),
    ) -> None:
        self._request, self._port = request, port
        self._room = np.zeros((64, *rest), dtype)
        self._array = self._room[:0]
        self._tensor: ov.Tensor | None = None

    def sized(self, count: int) -> npt.NDArray[Any]:
        """The input with `count` entries, to be written."""
        if count != len(self._array):
            if count > len(self._room):
                self._room = np.zeros((2 * count, *self._room.shape[1:]), self._room.dtype)
            self._array = self._room[:count]
            self._tensor = ov.Tensor(self._array, shared_memory=True)
            self._request.set_tensor(self._port, self._tensor)
        return self._array


class StepInputs:
    """A step's rows as the inputs of a paged decoder.

    Args:
        compiled: the decoder.
        request: of it.
        hidden_size: numbers in an embedding.
        tables: int32 `[slots, blocks of a slot]`.
    """

    def __init__(
        self,
        compiled: ov.CompiledModel,
        request: ov.InferRequest,
        hidden_size: int,
        tables: npt.NDArray[np.int32],
    ) -> None:
        ports = {port.get_any_name(): port for port in compiled.inputs}
        self._tables = tables
        self._embeddings = _Input(request, ports["inputs_embeds"], np.float32, (hidden_size,))
        self._positions = _Input(request, ports["position_ids"], np.int64)
        self._past = _Input(request, ports["past_lens"], np.int32)
        self._begins = _Input(request, ports["subsequence_begins"], np.int32)
        self._blocks = _Input(request, ports["block_indices"], np.int32)
        self._block_begins = _Input(request, ports["block_indices_begins"], np.int32)
        self._longest = np.zeros((), np.int32)
        self._scalar = ov.Tensor(self._longest, shared_memory=True)
        request.set_tensor(ports["max_context_len"], self._scalar)

    def write(self, rows: Sequence[Row], embeddings: torch.Tensor) -> None:
        """Write a step.

        Args:
            rows: which slots, and how far they are.
            embeddings: of the rows' tokens, `[sum of them, hidden_size]`.
        """
        past = np.array([row.past for row in rows], np.int32)
        counts = np.array([row.count for row in rows], np.int32)
        ends = past + counts
        total = int(counts.sum())
        self._past.sized(len(rows))[:] = past
        begins = self._begins.sized(len(rows) + 1)
        np.cumsum(counts, out=begins[1:])
        positions = self._positions.sized(total)
        positions[:] = np.arange(total) + np.repeat(past - begins[:-1], counts)
        needed = -(-ends // BLOCK_SIZE)
        block_begins = self._block_begins.sized(len(rows) + 1)
        np.cumsum(needed, out=block_begins[1:])
        blocks = self._blocks.sized(int(needed.sum()))
        np.concatenate(
            [self._tables[row.slot, :count] for row, count in zip(rows, needed, strict=True)],
            out=blocks,
        )
        self._longest[...] = ends.max()
        torch.from_numpy(self._embeddings.sized(total)).copy_(embeddings)

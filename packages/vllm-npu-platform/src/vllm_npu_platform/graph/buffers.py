"""The persistent tensors that graphs read, and how a step's values get into them.

All graphs of an executor share one set, sized for the largest; a graph's inputs are the first
rows of it. So buckets cost no memory of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vllm_npu_platform.attention.metadata import GatherMetadata, PagedMetadata
from vllm_npu_platform.graph.plan import Batch, Run
from vllm_npu_platform.graph.shapes import Shape
from vllm_npu_runtime.capture import Named
from vllm_npu_runtime.drivers.base import KVContract
from vllm_npu_runtime.extents import Varying
from vllm_npu_runtime.program import Kind


@dataclass(frozen=True)
class LayerGroup:
    """Attention layers that share a block table.

    Attributes:
        layers: their names; those that keep no cache of their own included.
        block_size: tokens per block.
        table_width: blocks that a request may have.
    """

    layers: tuple[str, ...]
    block_size: int
    table_width: int


@dataclass(frozen=True)
class InputSpec:
    """A tensor input of the model, `[tokens, *tail]`."""

    name: str
    dtype: torch.dtype
    tail: tuple[int, ...] = ()


class Buffers:
    """One set of persistent inputs.

    Args:
        inputs: the model's own inputs.
        groups: groups of layers.
        tokens: most tokens in a run.
        requests: most requests in a run.
    """

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        groups: Sequence[LayerGroup],
        tokens: int,
        requests: int,
    ) -> None:
        self._groups = tuple(groups)
        self._inputs = {
            spec.name: torch.zeros(tokens, *spec.tail, dtype=spec.dtype) for spec in inputs
        }
        self._tables = [
            torch.zeros(requests, group.table_width, dtype=torch.int32) for group in groups
        ]
        self._slots = [torch.full((tokens,), -1, dtype=torch.int64) for _ in groups]
        self._query_start_loc = torch.zeros(requests + 1, dtype=torch.int32)
        self._lens = torch.zeros(requests, dtype=torch.int32)

    def views(self, shape: Shape) -> Views:
        """The rows that a graph of this shape reads."""
        tokens, requests = shape.tokens, shape.requests
        return Views(
            shape=shape,
            groups=self._groups,
            inputs={name: buffer[:tokens] for name, buffer in self._inputs.items()},
            tables=[table[:requests] for table in self._tables],
            slots=[slots[:tokens] for slots in self._slots],
            query_start_loc=self._query_start_loc[: requests + 1],
            lens=self._lens[:requests],
        )


class Views:
    """What one graph reads: the first rows of every buffer.

    Attributes:
        shape: of the graph.
        inputs: the model's own inputs, `[T, *tail]`, by name.
        tables: by group, int32 `[R, M]`.
        slots: by group, int64 `[T]`.
        query_start_loc: int32 `[R + 1]`.
        lens: int32 `[R]`: sequence lengths (paged) or context lengths (gather).
    """

    def __init__(
        self,
        shape: Shape,
        groups: tuple[LayerGroup, ...],
        inputs: dict[str, torch.Tensor],
        tables: list[torch.Tensor],
        slots: list[torch.Tensor],
        query_start_loc: torch.Tensor,
        lens: torch.Tensor,
    ) -> None:
        self.shape = shape
        self.inputs = inputs
        self.tables = tables
        self.slots = slots
        self.query_start_loc = query_start_loc
        self.lens = lens
        self.groups = groups
        # numpy costs a fraction of torch for the many small copies of a step.
        self._np_tables = [table.numpy() for table in tables]
        self._np_slots = [each.numpy() for each in slots]
        self._np_query_start_loc = query_start_loc.numpy()
        self._np_lens = lens.numpy()

    def metadata(self) -> dict[str, PagedMetadata | GatherMetadata]:
        """Metadata objects for tracing, by layer; one object for each group."""
        by_layer: dict[str, PagedMetadata | GatherMetadata] = {}
        for group, table, slots in zip(self.groups, self.tables, self.slots, strict=True):
            one: PagedMetadata | GatherMetadata
            if self.shape.contract is KVContract.PAGED:
                one = PagedMetadata(table, slots, self.query_start_loc, self.lens)
            else:
                one = GatherMetadata(table, self.lens, self.query_start_loc)
            by_layer.update(dict.fromkeys(group.layers, one))
        return by_layer

    def named(self, varying: bool = False) -> list[Named]:
        """Every tensor under the name that it is bound by.

        Args:
            varying: say of the numbers of tokens and requests that they vary.
        """
        tensors = {
            **self.inputs,
            **{f"block_table.{index}": table for index, table in enumerate(self.tables)},
            **{f"slot_mapping.{index}": slots for index, slots in enumerate(self.slots)},
            "query_start_loc": self.query_start_loc,
            "lens": self.lens,
        }
        if not varying:
            return [Named(name, Kind.INPUT, tensor) for name, tensor in tensors.items()]
        tokens = Varying("tokens", self.shape.tokens)
        requests = Varying("requests", self.shape.requests)
        rows = {
            **dict.fromkeys(
                (f"block_table.{index}" for index in range(len(self.tables))), requests
            ),
            "query_start_loc": Varying("requests + 1", self.shape.requests + 1),
            "lens": requests,
        }
        return [
            Named(name, Kind.INPUT, tensor, {0: rows.get(name, tokens)})
            for name, tensor in tensors.items()
        ]

    def fill(self, run: Run, batch: Batch, inputs: Mapping[str, torch.Tensor]) -> None:
        """Copy a run's part of a step in, and pad the rest.

        Padded requests own no token and no context, and padded tokens have slot -1: they are
        written nowhere, attended by none, and their rows are thrown away.

        Args:
            run: which part.
            batch: the step.
            inputs: the model's inputs for the whole step, `[tokens, *tail]`. One that is left
                out is zero.
        """
        tokens, requests = run.num_tokens, run.num_requests
        for name, view in self.inputs.items():
            if name in inputs:
                view[:tokens] = inputs[name][run.tokens]
                view[tokens:].zero_()
            else:
                view.zero_()
        groups = zip(
            self._np_tables, self._np_slots, batch.block_tables, batch.slot_mappings, strict=True
        )
        for table, slots, step_table, step_slots in groups:
            table[:requests] = step_table[run.requests]
            table[requests:] = 0
            slots[:tokens] = step_slots[run.tokens]
            slots[tokens:] = -1
        starts, lens = self._np_query_start_loc, self._np_lens
        lens[requests:] = 0
        if self.shape.contract is KVContract.PAGED:
            starts[: requests + 1] = batch.query_start_loc
            starts[requests + 1 :] = tokens
            lens[:requests] = batch.seq_lens
            return
        starts[0] = 0
        if requests == 1 and self.shape.requests == 1:
            starts[1] = tokens
            lens[0] = run.context
        else:
            starts[1:] = np.minimum(np.arange(1, self.shape.requests + 1), tokens)
            lens[:requests] = batch.seq_lens[run.requests] - 1

    def clear(self) -> None:
        """Nothing but padding."""
        for tensor in (*self.inputs.values(), *self.tables, self.query_start_loc, self.lens):
            tensor.zero_()
        for slots in self.slots:
            slots.fill_(-1)

"""What a step tells the attention layers, and the metadata that a traced graph reads.

Each class is the metadata of one group of layers that share a block table. The layers of a
group look up the same object, so a graph gets each tensor as one input.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from vllm.v1.attention.backend import AttentionMetadata


@dataclass
class PagedMetadata(AttentionMetadata):
    """A step as vLLM built it, or a token bucket's persistent buffers.

    Attributes:
        block_table: int32 `[R, M]`.
        slot_mapping: int64 `[T]`; -1 for padding.
        query_start_loc: int32 `[R + 1]`.
        seq_lens: int32 `[R]`; 0 for padding.
    """

    block_table: torch.Tensor
    slot_mapping: torch.Tensor
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor


@dataclass
class GatherMetadata(AttentionMetadata):
    """A gather bucket's persistent buffers, and what its layers leave for the host to scatter.

    Attributes:
        block_table: int32 `[B, M]`.
        context_lens: int32 `[B]`: tokens in the cache before the run.
        query_start_loc: int32 `[B + 1]`: for layers without a cache.
        new_keys: by layer, `[N, G, D]`; filled while the graph is traced.
        new_values: likewise.
    """

    block_table: torch.Tensor
    context_lens: torch.Tensor
    query_start_loc: torch.Tensor
    new_keys: dict[str, torch.Tensor] = field(default_factory=dict)
    new_values: dict[str, torch.Tensor] = field(default_factory=dict)

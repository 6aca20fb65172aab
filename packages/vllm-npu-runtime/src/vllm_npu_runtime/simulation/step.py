"""What a session's step costs by a datasheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vllm_npu_runtime.simulation.cost import Estimate
from vllm_npu_runtime.simulation.datasheet import Datasheet


@dataclass(frozen=True)
class Decoder:
    """Sizes on which a step's cost depends.

    Attributes:
        parameters: numbers in the layers' matrices, without embeddings and head.
        weight_bytes: that they take.
        attention_width: query heads times their size, in all layers together.
        token_bytes: keys and values of a token, in all layers.
        hidden_bytes: of a hidden state.
        dtype: that it computes in.
    """

    parameters: int
    weight_bytes: int
    attention_width: int
    token_bytes: int
    hidden_bytes: int
    dtype: torch.dtype


def estimate(decoder: Decoder, rows: Sequence[tuple[int, int]], sheet: Datasheet) -> Estimate:
    """What a step costs; the roofline, as in `simulation.cost`.

    Args:
        decoder: what runs.
        rows: past and new tokens of each request.
        sheet: the device.
    """
    tokens = sum(new for _, new in rows)
    # A new token sees the past and the new ones up to itself; two products of 2 operations each.
    pairs = sum(new * past + new * (new + 1) // 2 for past, new in rows)
    flops = 2 * decoder.parameters * tokens + 4 * decoder.attention_width * pairs
    held = sum(past + new for past, new in rows)
    moved = (
        decoder.weight_bytes
        + decoder.token_bytes * (held + tokens)
        + 2 * decoder.hidden_bytes * tokens
    )
    peak = sheet.flops[decoder.dtype]
    return Estimate(flops, moved, flops / peak, moved / sheet.bandwidth, sheet.launch_overhead)

"""Which tokens see which: attention masks as part of the graph.

Paged attention has no use for them and drops them. They serve the runtimes that pad: an NPU's
puts padding in front of a prompt, and between the past and a new token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FULL, SLIDING = "full_attention", "sliding_attention"


def masks(
    attention_mask: torch.Tensor, position_ids: torch.Tensor, windows: Sequence[int | None]
) -> dict[str, torch.Tensor]:
    """A mask for each kind of layer, bool `[B, 1, S, P + S]`, true where a key is seen.

    Args:
        attention_mask: int64 `[B, P + S]`, 0 for padding.
        position_ids: int64 `[B, S]`, of the new tokens.
        windows: of each layer; those that have one have the same.
    """
    import torch

    total, count = attention_mask.shape[1], position_ids.shape[1]
    keys = torch.arange(total)[None, :]
    queries = (torch.arange(count) + (total - count))[:, None]
    real = attention_mask[:, None, None, :] != 0
    seen = (keys <= queries)[None, None] & real
    # Padding sees itself: a softmax over nothing is NaN, and would spread from its values.
    itself = (keys == queries)[None, None]
    found = {FULL: seen | itself}
    if window := next((window for window in windows if window), None):
        # By positions, not by places, so that padding doesn't count.
        positions = attention_mask.cumsum(1) - 1
        near = positions[:, None, None, :] > position_ids[:, None, :, None] - window
        found[SLIDING] = (seen & near) | itself
    return found

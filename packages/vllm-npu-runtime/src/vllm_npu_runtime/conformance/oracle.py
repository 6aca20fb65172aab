"""Expected values: dense PyTorch in float32, request by request.

Nothing here uses the suite's operators, so that no mistake can be on both sides.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

# Absolute and relative error that a device may make: a few roundings of sums of some dozens of
# products of numbers around 1. Any other dtype, as of a quantized KV cache, is the last.
_TOLERANCE = {
    torch.float32: 2e-4,
    torch.float16: 6e-3,
    torch.bfloat16: 4e-2,
    torch.uint4: 0.5,  # type: ignore[attr-defined]  # 16 steps over the range of a row, which is some six times its deviation
}
_COARSEST = 6e-2


def assert_close(actual: torch.Tensor, expected: torch.Tensor, *dtypes: torch.dtype) -> None:
    """Compare with an error that fits the coarsest of the dtypes it was computed in."""
    error = max(_TOLERANCE.get(dtype, _COARSEST) for dtype in dtypes)
    torch.testing.assert_close(actual.float(), expected.float(), rtol=error, atol=error)


def causal_mask(context: int, new: int, window: int = 0) -> torch.Tensor:
    """Boolean `[new, context + new]`: True where a new token sees a token of its request.

    Args:
        context: tokens before the new ones.
        new: new tokens.
        window: a token sees itself and the window - 1 tokens before it; 0: all before it.
    """
    everything = torch.ones(new, context + new, dtype=torch.bool)
    seen = everything.tril(context)
    return seen & ~everything.tril(context - window) if window else seen


def attention(
    query_QHD: torch.Tensor,
    key_KGD: torch.Tensor,
    value_KGD: torch.Tensor,
    mask_QK: torch.Tensor,
    scale: float,
    soft_cap: float = 0.0,
) -> torch.Tensor:
    """Attention of one request, `[Q, H, D]` in float32."""
    repeats = query_QHD.shape[1] // key_KGD.shape[1]
    query = query_QHD.float().transpose(0, 1)
    key = key_KGD.float().transpose(0, 1).repeat_interleave(repeats, 0)
    value = value_KGD.float().transpose(0, 1).repeat_interleave(repeats, 0)
    if not soft_cap:
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask_QK, scale=scale)
        return out.transpose(0, 1)
    scores = torch.einsum("hqd,hkd->hqk", query, key) * scale
    scores = (soft_cap * torch.tanh(scores / soft_cap)).masked_fill(~mask_QK, -torch.inf)
    return torch.einsum("hqk,hkd->qhd", scores.softmax(-1), value)

"""``vllm_npu::encoder_attention``: bidirectional attention within each request, without a cache.

Shape letters: T tokens, R requests, H query heads, G key/value heads, D head size.
"""

from itertools import pairwise

import torch

from vllm_npu_runtime.ops.attention import masked_attention


def decomposition(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_start_loc: torch.Tensor,
    scale: float,
    sliding_window: int = 0,
    soft_cap: float = 0.0,
) -> torch.Tensor:
    """Every token sees the tokens of its own request.

    Args:
        query: `[T, H, D]`, request by request; padding at the end.
        key: `[T, G, D]`.
        value: `[T, G, D]`.
        query_start_loc: int32 `[R + 1]`: where each request begins, and where the last ends;
            padded rows repeat the end. Tokens behind the end are padding.
        scale: see `masked_attention`.
        sliding_window: W > 0 lets a token see the W-1 tokens before it, itself, and the W-1
            after it; 0 lets it see all of the request.
        soft_cap: see `masked_attention`.

    Returns:
        `[T, H, D]` in the query's dtype.
    """
    tokens = query.shape[0]
    index = torch.arange(tokens, device=query.device)
    # Padding falls behind the last end, so all of it counts as one request of its own.
    request = (query_start_loc[1:].unsqueeze(0) <= index.unsqueeze(1)).sum(1)
    mask = request.unsqueeze(0) == request.unsqueeze(1)
    if sliding_window > 0:
        distance = (index.unsqueeze(0) - index.unsqueeze(1)).abs()
        mask = torch.logical_and(mask, distance < sliding_window)
    out = masked_attention(
        query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0), mask.unsqueeze(0), scale, soft_cap
    )
    return out.squeeze(0)


@torch.library.custom_op("vllm_npu::encoder_attention", mutates_args=())
def encoder_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_start_loc: torch.Tensor,
    scale: float,
    sliding_window: int = 0,
    soft_cap: float = 0.0,
) -> torch.Tensor:
    """See `decomposition`; the host runs it request by request, which costs less."""
    out = query.new_zeros(query.shape)
    bounds = query_start_loc.tolist()
    for begin, end in pairwise(bounds):
        if begin < end:
            whole = query_start_loc.new_tensor([0, end - begin])
            out[begin:end] = decomposition(
                query[begin:end],
                key[begin:end],
                value[begin:end],
                whole,
                scale,
                sliding_window,
                soft_cap,
            )
    return out


@encoder_attention.register_fake
def _(query: torch.Tensor, *_operands: object, **_options: object) -> torch.Tensor:
    return query.new_empty(query.shape)

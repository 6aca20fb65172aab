"""``vllm_npu::gather_attention``: attention for devices that only read the KV cache.

New keys and values come in as operands and are not written; the program returns them, and the
host scatters them into the cache after the run.

Shape letters: N tokens = B requests * C tokens each, H query heads, G key/value heads, D head
size, M blocks a request may have, S tokens a block holds.
"""

import torch

from vllm_npu_runtime.ops.attention import causal_mask, finite_values, masked_weights


def decomposition(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kv_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    sliding_window: int = 0,
    soft_cap: float = 0.0,
) -> torch.Tensor:
    """Attend over a gathered context and over the new tokens themselves.

    Each request brings the same number C of new tokens, which follow its context. Padding
    stands behind the real tokens of a request, where causality hides it from them.

    Args:
        query: `[N, H, D]`, request by request.
        key: new keys `[N, G, D]`.
        value: new values `[N, G, D]`.
        kv_cache: `[blocks, G, S, 2 * D]`: keys, then values, on the last axis.
        block_table: int32 `[B, M]`: the blocks of each request in order; any block where a
            request has none.
        context_lens: int32 `[B]`: tokens already in the cache; 0 for a padded row.
        scale: see `masked_attention`.
        sliding_window: see `causal_mask`.
        soft_cap: see `masked_attention`.

    Returns:
        `[N, H, D]` in the query's dtype.
    """
    requests, blocks = block_table.shape
    tokens, heads, size = query.shape
    new = tokens // requests
    _, groups, block_size, _ = kv_cache.shape
    context = blocks * block_size

    # One copy of what was gathered, head by head; each other one would cost as much as the product.
    gathered = kv_cache.index_select(0, block_table.reshape(-1))
    gathered = gathered.reshape(requests, blocks, groups, block_size, 2 * size)
    gathered = gathered.permute(0, 2, 1, 3, 4).reshape(requests, groups, context, 2 * size)
    gathered = gathered.to(key.dtype)
    query_BGRD = query.reshape(requests, new, groups, heads // groups, size)
    query_BGRD = query_BGRD.permute(0, 2, 3, 1, 4).reshape(requests, groups, -1, size).float()
    key_BGCD = key.reshape(requests, new, groups, size).permute(0, 2, 1, 3)
    value_BCGD = value.reshape(requests, new, groups, size)

    lens = context_lens.long().unsqueeze(1)
    steps = torch.arange(new, device=query.device)
    slots = torch.arange(context, device=query.device).expand(requests, context)
    query_positions = lens + steps
    key_positions = torch.cat([slots, query_positions], 1)
    mask = causal_mask(query_positions, key_positions, sliding_window)
    # What lies behind the context in the gathered blocks is not this request's.
    owned = slots < lens
    in_context = torch.cat([owned, torch.ones_like(query_positions, dtype=torch.bool)], 1)
    mask = torch.logical_and(mask, in_context.unsqueeze(1))

    scores = torch.cat(
        [
            torch.matmul(query_BGRD, gathered[..., :size].float().transpose(2, 3)),
            torch.matmul(query_BGRD, key_BGCD.float().transpose(2, 3)),
        ],
        3,
    )
    weights = masked_weights(
        scores.reshape(requests, groups, heads // groups, new, context + new), mask, scale, soft_cap
    ).reshape(requests, groups, -1, context + new)
    cached = gathered[..., size:].masked_fill(torch.logical_not(owned)[:, None, :, None], 0.0)
    poisoned = None
    if new > 1:  # padding among the new tokens may be anything, too
        value_BCGD, poisoned = finite_values(value_BCGD, mask[:, :, context:])
    out = torch.matmul(weights[..., :context], cached.float())
    out = out + torch.matmul(weights[..., context:], value_BCGD.permute(0, 2, 1, 3).float())
    out = out.reshape(requests, groups, heads // groups, new, size).permute(0, 3, 1, 2, 4)
    if poisoned is not None:
        out = out.masked_fill(poisoned[:, :, None, None, None], float("nan"))
    return out.reshape(tokens, heads, size).to(query.dtype)


@torch.library.custom_op("vllm_npu::gather_attention", mutates_args=())
def gather_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kv_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    sliding_window: int = 0,
    soft_cap: float = 0.0,
) -> torch.Tensor:
    """See `decomposition`, which the host runs as it stands."""
    out = decomposition(
        query, key, value, kv_cache, block_table, context_lens, scale, sliding_window, soft_cap
    )
    # What follows was traced over the fake version's strides, and may view by them.
    return out.contiguous()


@gather_attention.register_fake
def _(query: torch.Tensor, *_operands: object, **_options: object) -> torch.Tensor:
    return query.new_empty(query.shape)

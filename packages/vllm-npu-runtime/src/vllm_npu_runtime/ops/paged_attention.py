"""``vllm_npu::paged_attention``: write new keys and values into the cache, then attend over it.

Prefill chunks and decodes of any mix stand in one row of tokens (vLLM, arXiv:2309.06180).

Shape letters: T tokens, R requests, H query heads, G key/value heads, D head size, M blocks a
request may have, S tokens a block holds.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

from vllm_npu_runtime.ops.attention import causal_mask, masked_attention


def decomposition(
    query: torch.Tensor,
    key: torch.Tensor | None,
    value: torch.Tensor | None,
    kv_cache: torch.Tensor,
    block_table: torch.Tensor,
    slot_mapping: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    scale: float,
    sliding_window: int = 0,
    soft_cap: float = 0.0,
) -> torch.Tensor:
    """Paged attention in ATen operators of static shape.

    Args:
        query: `[T, H, D]`, request by request; padding at the end.
        key: new keys `[T, G, D]`; None if another layer has written them.
        value: new values `[T, G, D]`; None likewise.
        kv_cache: `[blocks, G, S, 2 * D]`, keys, then values, on the last axis; written.
        block_table: int32 `[R, M]`: the blocks of each request in order.
        slot_mapping: int64 `[T]`: block * S + offset where a token goes; -1 for padding, which
            is not written.
        query_start_loc: int32 `[R + 1]`: where each request begins among the tokens, and where
            the last ends; padded rows repeat the end.
        seq_lens: int32 `[R]`: tokens of a request in the cache after the write; 0 for a padded
            row.
        scale: see `masked_attention`.
        sliding_window: see `causal_mask`.
        soft_cap: see `masked_attention`.

    Returns:
        `[T, H, D]` in the query's dtype; zeros for padding.
    """
    tokens, _, size = query.shape
    requests, blocks = block_table.shape
    _, groups, block_size, _ = kv_cache.shape
    if key is not None and value is not None:
        write_static(kv_cache, key, value, slot_mapping)

    index = torch.arange(tokens, device=query.device)
    request = (query_start_loc[1:].unsqueeze(0) <= index.unsqueeze(1)).sum(1)
    real = request < requests
    row = request.clamp(max=requests - 1)
    query_len = (query_start_loc[1:] - query_start_loc[:-1])[row]
    position = seq_lens[row] - query_len + index - query_start_loc[:-1][row]

    context = blocks * block_size
    gathered = kv_cache.index_select(0, block_table[row].reshape(-1))
    gathered = gathered.reshape(tokens, blocks, groups, block_size, 2 * size)
    gathered = gathered.permute(0, 1, 3, 2, 4).reshape(tokens, context, groups, 2 * size)
    gathered = gathered.to(query.dtype)
    slots = torch.arange(context, device=query.device).expand(tokens, context)
    mask = causal_mask(position.unsqueeze(1), slots, sliding_window)
    mask = torch.logical_and(mask, real[:, None, None])
    out = masked_attention(
        query.unsqueeze(1), gathered[..., :size], gathered[..., size:], mask, scale, soft_cap
    )
    return out.squeeze(1)


def write_static(
    kv_cache: torch.Tensor, key: torch.Tensor, value: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    """Write `[T, G, D]` keys and values to their slots, in operators of static shape.

    Padding is sent to the last slot of block 0, vLLM's null block, which no request reads.
    """
    block_size = kv_cache.shape[2]
    slots = torch.where(slot_mapping < 0, block_size - 1, slot_mapping)
    entries = torch.cat([key, value], -1).to(kv_cache.dtype)
    block = torch.div(slots, block_size, rounding_mode="floor")
    kv_cache[block, :, slots % block_size] = entries


def write(
    kv_cache: torch.Tensor, key: torch.Tensor, value: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    """Write `[T, G, D]` keys and values to their slots; those with slot -1 nowhere."""
    keep = (slot_mapping >= 0).nonzero().squeeze(1)
    slots = slot_mapping[keep]
    block_size, size = kv_cache.shape[2], key.shape[2]
    block, offset = slots // block_size, slots % block_size
    kv_cache[block, :, offset, :size] = key[keep].to(kv_cache.dtype)
    kv_cache[block, :, offset, size:] = value[keep].to(kv_cache.dtype)


@torch.library.custom_op("vllm_npu::paged_attention", mutates_args=("kv_cache",))
def paged_attention(
    query: torch.Tensor,
    key: torch.Tensor | None,
    value: torch.Tensor | None,
    kv_cache: torch.Tensor,
    block_table: torch.Tensor,
    slot_mapping: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    scale: float,
    sliding_window: int = 0,
    soft_cap: float = 0.0,
) -> torch.Tensor:
    """See `decomposition`; the host attends request by request over what each really has."""
    if key is not None and value is not None:
        write(kv_cache, key, value, slot_mapping)
    out = query.new_zeros(query.shape)
    starts, lens = query_start_loc.tolist(), seq_lens.tolist()
    for row, length in enumerate(lens):
        begin, end = starts[row], starts[row + 1]
        if begin < end:
            out[begin:end] = _attend_one(
                query[begin:end],
                kv_cache,
                block_table[row],
                length,
                scale,
                sliding_window,
                soft_cap,
            )
    return out


def _attend_one(
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    blocks: torch.Tensor,
    length: int,
    scale: float,
    sliding_window: int,
    soft_cap: float,
) -> torch.Tensor:
    """The last `len(query)` of one request's `length` tokens attend over its blocks."""
    _, groups, block_size, _ = kv_cache.shape
    count, heads, size = query.shape
    used = kv_cache[blocks[: -(-length // block_size)].long()]
    context = used.permute(1, 0, 2, 3).reshape(groups, -1, 2 * size)[:, :length].to(query.dtype)
    key, value = context[..., :size], context[..., size:]
    if count == 1 and sliding_window == 0 and soft_cap == 0.0:
        grouped = query.reshape(groups, heads // groups, size)
        return scaled_dot_product_attention(grouped, key, value, scale=scale).reshape(
            1, heads, size
        )
    positions = torch.arange(length)
    mask = causal_mask(positions[None, length - count :], positions[None], sliding_window)
    return masked_attention(
        query[None],
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        mask,
        scale,
        soft_cap,
    )[0]


@paged_attention.register_fake
def _(query: torch.Tensor, *_operands: object, **_options: object) -> torch.Tensor:
    return query.new_empty(query.shape)

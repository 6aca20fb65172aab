"""Masked attention in plain ATen, shared by the operators that differ in what they attend to.

Shape letters: B requests, Q queries, K keys, H query heads, G key/value heads, D head size.
"""

import torch


def masked_attention(
    query_BQHD: torch.Tensor,
    key_BKGD: torch.Tensor,
    value_BKGD: torch.Tensor,
    mask_BQK: torch.Tensor,
    scale: float,
    soft_cap: float,
) -> torch.Tensor:
    """Scaled dot-product attention over the keys that the mask allows.

    Scores and softmax are in float32 whatever the inputs are. A query that may see no key at
    all, as a padded one, gets zeros. What the mask hides has no influence, whatever number it
    is: hidden values are replaced before the product, as 0 * NaN and 0 * inf are NaN.

    Args:
        query_BQHD: `[B, Q, H, D]`; H is a multiple of G, and H/G query heads in a row share
            one key/value head (grouped-query attention, arXiv:2305.13245).
        key_BKGD: `[B, K, G, D]`.
        value_BKGD: `[B, K, G, D]`.
        mask_BQK: boolean `[B, Q, K]`, True where the query sees the key.
        scale: multiplies the scores, usually D ** -0.5.
        soft_cap: c > 0 turns a score s into ``c * tanh(s / c)`` (Gemma 2, arXiv:2408.00118);
            0 leaves it.

    Returns:
        `[B, Q, H, D]` in the query's dtype.
    """
    batch, queries, heads, size = query_BQHD.shape
    groups = key_BKGD.shape[2]
    query = query_BQHD.reshape(batch, queries, groups, heads // groups, size)
    query = query.permute(0, 2, 3, 1, 4).float()
    key = key_BKGD.permute(0, 2, 3, 1).unsqueeze(2).float()
    if queries == 1:
        seen, poisoned = value_BKGD.masked_fill(~mask_BQK[:, 0, :, None, None], 0.0), None
    else:
        seen, poisoned = finite_values(value_BKGD, mask_BQK)
    value = seen.permute(0, 2, 1, 3).unsqueeze(2).float()
    weights = masked_weights(torch.matmul(query, key), mask_BQK, scale, soft_cap)
    out = torch.matmul(weights, value)
    out = out.permute(0, 3, 1, 2, 4).reshape(batch, queries, heads, size)
    if poisoned is not None:
        out = out.masked_fill(poisoned[:, :, None, None], float("nan"))
    return out.to(query_BQHD.dtype)


def masked_weights(
    products_BGRQK: torch.Tensor, mask_BQK: torch.Tensor, scale: float, soft_cap: float
) -> torch.Tensor:
    """What each value counts: softmax over the keys that the mask allows, 0 for the others.

    Args:
        products_BGRQK: of queries and keys, float32 `[B, G, H / G, Q, K]`; what is hidden may be
            anything.
        mask_BQK: as in `masked_attention`.
        scale: likewise.
        soft_cap: likewise.

    Returns:
        Float32, in the shape of the products.
    """
    scores = products_BGRQK * scale
    if soft_cap > 0:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    hidden = torch.logical_not(mask_BQK)[:, None, None]
    # The lowest finite number instead of -inf: a row without any key would become NaN.
    scores = scores.masked_fill(hidden, torch.finfo(torch.float32).min)
    return torch.softmax(scores, dim=-1).masked_fill(hidden, 0.0)


def finite_values(
    value_BKGD: torch.Tensor, mask_BQK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values without NaN and infinity, and which queries see a key that had one, `[B, Q]`.

    Queries share the product's values, so what is hidden from one may be seen by another.
    """
    # By comparison and sums, which every device's converter knows.
    wild = torch.logical_not(value_BKGD.abs() <= torch.finfo(value_BKGD.dtype).max)
    spoilt_BK = wild.flatten(2).float().sum(2)
    poisoned = torch.matmul(mask_BQK.float(), spoilt_BK.unsqueeze(2)).squeeze(2) > 0
    return value_BKGD.masked_fill(wild, 0.0), poisoned


def causal_mask(
    query_positions_BQ: torch.Tensor, key_positions_BK: torch.Tensor, sliding_window: int
) -> torch.Tensor:
    """Who sees whom by position: no key after the query, none out of its window.

    Args:
        query_positions_BQ: integers `[B, Q]`.
        key_positions_BK: integers `[B, K]`.
        sliding_window: W > 0 lets position p see p-W+1 … p; 0 lets it see all up to p.

    Returns:
        Boolean `[B, Q, K]`.
    """
    query = query_positions_BQ.unsqueeze(2)
    key = key_positions_BK.unsqueeze(1)
    mask = key <= query
    if sliding_window > 0:
        mask = torch.logical_and(mask, key > query - sliding_window)
    return mask

"""Token embeddings, which the host looks up."""

from __future__ import annotations

import torch

from vllm_npu_runtime.errors import BadShapeError


class TokenEmbedding:
    """A table of embeddings.

    Args:
        table: `[vocab_size, hidden_size]`.
        scale: what its rows are multiplied by.
        dtype: of what is given back; the product with the scale is rounded to the table's dtype
            first, as the model does.
    """

    def __init__(self, table: torch.Tensor, scale: float, dtype: torch.dtype) -> None:
        self._table = table
        self._scale = scale
        self._dtype = dtype

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings of ids, int64 `[n]` to `[n, hidden_size]`.

        Raises:
            BadShapeError: an id that isn't in the vocabulary.
        """
        check_ids(tokens, len(self._table))
        rows = self._table[tokens]
        return (rows if self._scale == 1.0 else rows * self._scale).to(self._dtype)


def check_ids(tokens: torch.Tensor, vocab_size: int) -> None:
    """Raise `BadShapeError` unless every id is in the vocabulary."""
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise BadShapeError(
            f"Token ids from {int(tokens.min())} to {int(tokens.max())}; the vocabulary has "
            f"{vocab_size}, from 0."
        )

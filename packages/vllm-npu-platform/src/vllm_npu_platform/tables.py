"""Numbers that a model works out for itself when it is built, as exact as its arithmetic.

vLLM rounds them to the model's dtype: sines and cosines of rotary embeddings (a table by position)
and Gemma's scale of embeddings. Where a 16-bit model is computed in float32, Hugging Face's model
in float32, which gives the tokens that ours must give, doesn't round them.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding

TABLE = "cos_sin_cache"
SCALE = "normalizer"
# These take a table of any dtype, and convert it to the query's in the graph, where a driver that
# computes in a wider dtype doesn't round. Others (LongRoPE) would give queries in the table's.
_FORWARDS = (RotaryEmbedding.forward_native, MRotaryEmbedding.forward_native)


def widen(model: torch.nn.Module, arithmetic: torch.dtype) -> None:
    """Work these numbers out again, in the dtype that the model is computed in.

    Args:
        model: vLLM's, with its weights.
        arithmetic: see `Capabilities.computes_in`.
    """
    for module in model.modules():
        table, scale = getattr(module, TABLE, None), getattr(module, SCALE, None)
        takes_any = getattr(type(module), "forward_native", None) in _FORWARDS
        if takes_any and _is_narrow(table, arithmetic):
            exact: torch.Tensor = module._compute_cos_sin_cache()  # type: ignore[operator]
            module.register_buffer(TABLE, exact.to(arithmetic), persistent=False)
        if _is_narrow(scale, arithmetic):
            width = getattr(getattr(module, "config", None), "hidden_size", 0)
            exact = torch.tensor(width**0.5, dtype=arithmetic)
            if exact.to(scale.dtype).equal(scale):  # else it is something else
                module.register_buffer(SCALE, exact, persistent=False)


def _is_narrow(tensor: object, arithmetic: torch.dtype) -> TypeGuard[torch.Tensor]:
    """Whether that is a tensor of fewer bits."""
    return isinstance(tensor, torch.Tensor) and tensor.dtype.itemsize < arithmetic.itemsize

"""A two-layer decoder with random weights: embedding, RMS norm, rotary attention, gated MLP."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import embedding, silu

from vllm_npu_runtime.conformance import oracle
from vllm_npu_runtime.conformance.pages import Geometry

LAYERS = 2
VOCABULARY = 64
INTERMEDIATE = 96

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Attention of a layer: from its number, query, key and value to the output."""


class Transformer:
    """The model; attention, where drivers differ, is passed in.

    Args:
        geometry: heads and their sizes.
        dtype: of the weights.
    """

    def __init__(self, geometry: Geometry, dtype: torch.dtype) -> None:
        self.geometry = geometry
        heads, groups, size = geometry.heads, geometry.groups, geometry.size
        hidden = heads * size
        shapes = {"embedding": (VOCABULARY, hidden), "norm": (hidden,)}
        for layer in range(LAYERS):
            shapes |= {
                f"{layer}.input_norm": (hidden,),
                f"{layer}.qkv": ((heads + 2 * groups) * size, hidden),
                f"{layer}.out": (hidden, hidden),
                f"{layer}.mlp_norm": (hidden,),
                f"{layer}.gate_up": (2 * INTERMEDIATE, hidden),
                f"{layer}.down": (hidden, INTERMEDIATE),
            }
        self.weights = {
            name: (torch.randn(shape) * (shape[-1] ** -0.5 if len(shape) > 1 else 1)).to(dtype)
            for name, shape in shapes.items()
        }

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """Logits `[T, VOCABULARY]` of int64 tokens `[T]` at int64 positions `[T]`."""
        return self._forward(self.weights, tokens, positions, attend)

    def dense(self, tokens: torch.Tensor) -> torch.Tensor:
        """Expected logits `[T, VOCABULARY]` of one request, all at once, in float32."""
        mask = oracle.causal_mask(0, len(tokens))
        scale = self.geometry.size**-0.5

        def attend(
            _layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
        ) -> torch.Tensor:
            return oracle.attention(query, key, value, mask, scale)

        weights = {name: tensor.float() for name, tensor in self.weights.items()}
        return self._forward(weights, tokens, torch.arange(len(tokens)), attend)

    def _forward(
        self,
        weights: dict[str, torch.Tensor],
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
    ) -> torch.Tensor:
        heads, groups, size = self.geometry.heads, self.geometry.groups, self.geometry.size
        hidden = embedding(tokens, weights["embedding"])
        for layer in range(LAYERS):
            normed = rms_norm(hidden, weights[f"{layer}.input_norm"])
            qkv = (normed @ weights[f"{layer}.qkv"].t()).view(-1, heads + 2 * groups, size)
            query, key, value = qkv.split([heads, groups, groups], 1)
            query, key = rotary(query, positions), rotary(key, positions)
            attended = attend(layer, query, key, value.contiguous())
            hidden = hidden + attended.reshape(-1, heads * size) @ weights[f"{layer}.out"].t()
            normed = rms_norm(hidden, weights[f"{layer}.mlp_norm"])
            gate, up = (normed @ weights[f"{layer}.gate_up"].t()).chunk(2, -1)
            hidden = hidden + (silu(gate) * up) @ weights[f"{layer}.down"].t()
        return rms_norm(hidden, weights["norm"]) @ weights["embedding"].t()


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Root-mean-square norm over the last axis (arXiv:1910.07467), inside in float32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return wide.to(x.dtype) * weight


def rotary(x_THD: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (arXiv:2104.09864) of the two halves of each head, inside in float32."""
    half = x_THD.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half) / half)
    angles = (positions_T.unsqueeze(1) * frequencies).unsqueeze(1)
    first, second = x_THD.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.to(x_THD.dtype)

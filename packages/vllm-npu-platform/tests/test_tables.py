"""Numbers that a model works out for itself: as exact as what it is computed in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.layers.rotary_embedding import get_rope

from vllm_npu_platform.tables import widen

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
KINDS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "llama 3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "linear": {**PLAIN, "rope_type": "linear", "factor": 2.0},
    "yarn": {
        **PLAIN,
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 128,
    },
}


class Scaled(nn.Module):
    """Scales its embeddings as Gemma does."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=80)
        self.register_buffer("normalizer", torch.tensor(scale, dtype=torch.bfloat16))


def rope(dtype: torch.dtype, parameters: dict[str, Any]) -> nn.Module:
    """A rotary embedding as a model of that dtype makes it; none is shared."""
    rotary_embedding._ROPE_DICT.clear()
    with set_current_vllm_config(VllmConfig()):
        return get_rope(32, 256, rope_parameters=dict(parameters), dtype=dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_sines_and_cosines_are_those_of_a_float32_model(kind: str) -> None:
    exact = rope(torch.float32, KINDS[kind]).cos_sin_cache
    made = rope(torch.bfloat16, KINDS[kind])
    assert not made.cos_sin_cache.float().equal(exact)
    widen(nn.ModuleList([made]), torch.float32)
    assert made.cos_sin_cache.dtype is torch.float32
    assert made.cos_sin_cache.equal(exact)


def test_a_model_computed_in_its_own_dtype_keeps_them() -> None:
    made = rope(torch.bfloat16, PLAIN)
    before = made.cos_sin_cache
    widen(nn.ModuleList([made]), torch.bfloat16)
    assert made.cos_sin_cache is before


def test_queries_and_keys_keep_their_dtype() -> None:
    made = rope(torch.bfloat16, PLAIN)
    widen(nn.ModuleList([made]), torch.float32)
    query = torch.ones(3, 64, dtype=torch.bfloat16)
    for turned in made.forward_native(torch.arange(3), query, query.clone()):
        assert turned.dtype is torch.bfloat16


def test_the_scale_of_embeddings_is_not_rounded() -> None:
    model = Scaled(80**0.5)
    widen(model, torch.float32)
    assert model.normalizer == torch.tensor(80**0.5)
    assert (torch.ones(2, dtype=torch.bfloat16) * model.normalizer).dtype is torch.bfloat16


def test_a_scale_that_is_something_else_is_left_alone() -> None:
    model = Scaled(3.0)
    widen(model, torch.float32)
    assert model.normalizer.dtype is torch.bfloat16

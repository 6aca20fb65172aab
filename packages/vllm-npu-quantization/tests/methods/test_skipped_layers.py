"""Layers that the user leaves out when quantizing on load."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.linear import (
    WEIGHT_LOADER_V2_SUPPORTED,
    LinearBase,
    UnquantizedLinearMethod,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

from vllm_npu_quantization.on_load.config import NPUW4A16Config
from vllm_npu_quantization.on_load.linear import NPUOnLoadLinearMethod
from vllm_npu_runtime.errors import ConfigurationError

from .test_refused_layers import bare

UP, DOWN, HEAD = "model.layers.0.mlp.gate_up_proj", "model.layers.0.mlp.down_proj", "lm_head"
KINDS: dict[str, Any] = {UP: LinearBase, DOWN: LinearBase, HEAD: ParallelLMHead}


def methods(**options: Any) -> dict[str, Any]:
    """What becomes of each layer with these options."""
    config = VllmConfig(
        device_config=DeviceConfig(device="cpu"), additional_config={"npu_quantization": options}
    )
    quantization = NPUW4A16Config()
    with set_current_vllm_config(config):
        return {
            name: quantization.get_quant_method(bare(kind), name) for name, kind in KINDS.items()
        }


def test_a_skipped_layer_is_vllm_s_own() -> None:
    made = methods(skip=["down_proj$"])
    assert isinstance(made[UP], NPUOnLoadLinearMethod)
    assert isinstance(made[DOWN], UnquantizedLinearMethod)
    assert type(made[DOWN]).__name__ in WEIGHT_LOADER_V2_SUPPORTED
    assert made[HEAD] is None
    made[UP].check()


def test_the_head_may_be_named() -> None:
    """Although it is left out anyway."""
    methods(skip=["lm_head"])[UP].check()
    made = methods(skip=["lm_head"], lm_head=True)
    assert made[HEAD] is None
    assert isinstance(methods(lm_head=True)[HEAD], NPUOnLoadLinearMethod)


@pytest.mark.parametrize(
    ("skip", "told"),
    [
        (["up_proj", "q_proj$"], r"'npu_quantization.skip' has 'q_proj\$', which no layer"),
        (["proj"], "leaves out every layer"),
    ],
)
def test_patterns_are_checked_when_weights_are_there(skip: list[str], told: str) -> None:
    """By the first layer that is loaded, be it skipped or not."""
    made = methods(skip=skip)
    with pytest.raises(ConfigurationError, match=told):
        made[UP].process_weights_after_loading(torch.nn.Module())

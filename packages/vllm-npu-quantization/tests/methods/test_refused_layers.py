"""Layers that have no operator yet are refused by name, rather than left as they are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from vllm_npu_quantization.configs.awq import NPUAWQConfig
from vllm_npu_quantization.configs.compressed_tensors import NPUCompressedTensorsConfig
from vllm_npu_quantization.configs.gptq import NPUGPTQConfig
from vllm_npu_quantization.on_load.config import NPUW4A16Config, NPUW8A16Config
from vllm_npu_runtime.errors import ConfigurationError

from .layers import CONFIGS

NAME = "model.layers.0.mlp.experts"
CHECKPOINTS = {
    "gptq": NPUGPTQConfig,
    "awq": NPUAWQConfig,
    "compressed-tensors": NPUCompressedTensorsConfig,
}


def bare(kind: type[torch.nn.Module]) -> Any:
    """A layer of a class, as far as a config asks: it has no weights yet."""
    layer = object.__new__(kind)
    torch.nn.Module.__init__(layer)
    return layer


@pytest.mark.parametrize("method", CHECKPOINTS)
def test_experts_of_a_quantized_checkpoint(method: str) -> None:
    config = CHECKPOINTS[method].from_config(copy.deepcopy(CONFIGS[method]))
    layer = bare(RoutedExperts)
    layer.ckpt_gate_proj_name = "gate_proj"
    with pytest.raises(ConfigurationError, match=f"'{NAME}': quantized experts of a mixture"):
        config.get_quant_method(layer, NAME)


@pytest.mark.parametrize("config", [NPUW4A16Config, NPUW8A16Config])
def test_experts_when_quantizing_on_load(config: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{config.NAME}, layer '{NAME}': experts"):
        config().get_quant_method(bare(RoutedExperts), NAME)


def test_quantized_embeddings() -> None:
    given = copy.deepcopy(CONFIGS["compressed-tensors"])
    given["config_groups"]["group_0"]["targets"] = ["Linear", "Embedding"]
    config = NPUCompressedTensorsConfig.from_config(given)
    layer = bare(VocabParallelEmbedding)
    with pytest.raises(ConfigurationError, match=r"'model\.embed_tokens': quantized embeddings"):
        config.get_quant_method(layer, "model.embed_tokens")

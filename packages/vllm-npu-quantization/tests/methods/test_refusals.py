"""Quantization configs that can't be honoured are refused by name, each entry with its fix."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from vllm_npu_quantization.configs.awq import NPUAWQConfig
from vllm_npu_quantization.configs.compressed_tensors import NPUCompressedTensorsConfig
from vllm_npu_quantization.configs.gptq import NPUGPTQConfig
from vllm_npu_runtime.errors import ConfigurationError

from .layers import CONFIGS

GPTQ = [
    ({"bits": 3}, "3 bits a weight"),
    ({"group_size": 16}, "group size 16"),
    ({"sym": False}, '"sym": false'),
    ({"desc_act": True}, '"desc_act": true'),
]
AWQ = [
    ({"bits": 8}, "8 bits a weight"),
    ({"group_size": 48}, "group size 48"),
    ({"version": "gemv"}, '"version": "gemv"'),
    ({"zero_point": False}, '"zero_point": false'),
]
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "group_size": None}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
DYNAMIC = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
COMPRESSED = [
    ({"weights": {"num_bits": 3}}, "3 bits a weight"),
    ({"weights": {"group_size": 16}}, "group size 16"),
    ({"weights": {"strategy": "tensor", "group_size": None}}, "strategy 'tensor'"),
    ({"weights": {"actorder": "group"}}, "actorder 'group'"),
    ({"weights": FP8, "format": "float-quantized"}, "format 'float-quantized'"),
    ({"weights": FP8}, "weights of type 'float'"),
    ({"weights": NVFP4, "format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized'"),
    ({"input_activations": DYNAMIC}, "input_activations"),
    ({"weights": {"symmetric": False}, "format": "int-quantized"}, "asymmetric weights"),
]


@pytest.mark.parametrize(("entries", "words"), GPTQ, ids=lambda each: str(each)[:30])
def test_gptq(entries: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match="GPTQ checkpoint") as caught:
        NPUGPTQConfig.from_config(CONFIGS["gptq"] | entries)
    assert words in str(caught.value)


@pytest.mark.parametrize(("entries", "words"), AWQ, ids=lambda each: str(each)[:30])
def test_awq(entries: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match="AWQ checkpoint") as caught:
        NPUAWQConfig.from_config(CONFIGS["awq"] | entries)
    assert words in str(caught.value)


@pytest.mark.parametrize(("entries", "words"), COMPRESSED, ids=lambda each: str(each)[:30])
def test_compressed_tensors(entries: dict[str, Any], words: str) -> None:
    config = copy.deepcopy(CONFIGS["compressed-tensors"])
    group = config["config_groups"]["group_0"]
    for name, value in entries.items():
        group[name] = group.get(name, {}) | value if isinstance(value, dict) else value
    with pytest.raises(ConfigurationError, match="compressed-tensors checkpoint") as caught:
        NPUCompressedTensorsConfig.from_config(config)
    assert words in str(caught.value)


def test_all_at_once() -> None:
    """With a number for each."""
    entries = {key: value for each, _ in GPTQ for key, value in each.items()}
    with pytest.raises(ConfigurationError, match="4 settings can't be honoured") as caught:
        NPUGPTQConfig.from_config(CONFIGS["gptq"] | entries)
    assert all(words in str(caught.value) for _, words in GPTQ)


def test_reordering_of_whole_rows_changes_nothing() -> None:
    """One scale for all inputs of a row."""
    NPUGPTQConfig.from_config(CONFIGS["gptq"] | {"desc_act": True, "group_size": -1})

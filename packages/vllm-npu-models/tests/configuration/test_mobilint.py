"""Mobilint's releases: their configurations are read without remote code."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from vllm_npu_models import register
from vllm_npu_models.configuration import mobilint
from vllm_npu_models.families import ARCHITECTURES


@pytest.mark.parametrize("family", ["llama", "exaone", "exaone4", "qwen2", "qwen3"])
def test_a_releases_config_is_read(family: str, tmp_path: Path) -> None:
    register()
    layers = "num_layers" if family == "exaone" else "num_hidden_layers"
    given = {
        "model_type": f"mobilint-{family}",
        "architectures": ["MobilintLlamaForCausalLM"],
        "hidden_size": 64,
        "num_attention_heads": 4,
        "npu_prefill_chunk_size": {"single": 64},
        "auto_map": {"AutoConfig": "configuration_mobilint.Config"},
        layers: 3,
    }
    (tmp_path / "config.json").write_text(json.dumps(given))
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.num_hidden_layers == 3
    assert config.npu_prefill_chunk_size == {"single": 64}
    assert type(config).__module__.startswith("vllm_npu_models")


def test_registering_twice_changes_nothing() -> None:
    from vllm.model_executor.models import ModelRegistry

    register()
    register()
    assert set(ARCHITECTURES) <= set(ModelRegistry.get_supported_archs())


def config(architecture: str, speculation: Any = None) -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(hf_text_config=SimpleNamespace(architectures=[architecture])),
        speculative_config=speculation,
    )


class TestLastToken:
    def test_a_release_gives_its_logits_alone(self) -> None:
        assert mobilint.last_token_only(config("MobilintQwen3ForCausalLM"), {})

    def test_unless_the_driver_is_told_otherwise(self) -> None:
        made = config("MobilintQwen3ForCausalLM")
        assert not mobilint.last_token_only(made, {"every_token": True})

    def test_our_artifacts_give_all(self) -> None:
        assert not mobilint.last_token_only(config("NPUQwen3ForCausalLM"), {})

    def test_drafts_cannot_be_checked_by_it(self) -> None:
        ngram = SimpleNamespace(method="ngram")
        made = config("MobilintLlamaForCausalLM", ngram)
        (problem,) = mobilint.speculation_problems(made, {})
        assert "'ngram'" in problem
        assert not list(mobilint.speculation_problems(made, {"every_token": True}))

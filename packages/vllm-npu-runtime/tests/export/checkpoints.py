"""Tiny checkpoints with random weights, one of each kind that differs for the compiler."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

WINDOW = 16
COMMON: dict[str, Any] = {
    "vocab_size": 112,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def _plain(kind: str, dtype: str = "float32", **options: Any) -> Callable[[Path], None]:
    """A checkpoint as `transformers` saves it."""

    def write(directory: Path) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(1)
        config = AutoConfig.for_model(kind, **{**COMMON, **options})
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # norms and biases of ones and zeros would hide mistakes
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
                elif "embed" not in name:
                    parameter.mul_(4)
        model.to(getattr(torch, dtype)).save_pretrained(directory)

    return write


def _exaone(directory: Path) -> None:
    """A checkpoint as EXAONE 3.5's: a Llama under other names, with code of its own."""
    from safetensors.torch import load_file, save_file

    _plain("llama", rope_parameters=LLAMA3_ROPE)(directory)
    llama = load_file(directory / "model.safetensors")
    renamed = {_exaone_name(name): tensor for name, tensor in llama.items()}
    save_file(renamed, directory / "model.safetensors", {"format": "pt"})
    scaling = {name: value for name, value in LLAMA3_ROPE.items() if name != "rope_theta"}
    config = {name: value for name, value in COMMON.items() if name != "num_hidden_layers"}
    config |= {
        "architectures": ["ExaoneForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_exaone.ExaoneConfig",
            "AutoModelForCausalLM": "modeling_exaone.ExaoneForCausalLM",
        },
        "model_type": "exaone",
        "num_layers": COMMON["num_hidden_layers"],
        "head_dim": 16,
        "layer_norm_epsilon": 1e-6,
        "activation_function": "silu",
        "rope_theta": LLAMA3_ROPE["rope_theta"],
        "rope_scaling": scaling,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "modeling_exaone.py").write_text("raise SystemExit('remote code was run')\n")
    (directory / "configuration_exaone.py").write_text("raise SystemExit('remote code was run')\n")


def _exaone_name(name: str) -> str:
    parts = {
        "model.embed_tokens.": "transformer.wte.",
        "model.norm.": "transformer.ln_f.",
        "model.layers.": "transformer.h.",
        ".input_layernorm.": ".ln_1.",
        ".post_attention_layernorm.": ".ln_2.",
        ".self_attn.o_proj.": ".attn.attention.out_proj.",
        ".self_attn.": ".attn.attention.",
        ".gate_proj.": ".c_fc_0.",
        ".up_proj.": ".c_fc_1.",
        ".down_proj.": ".c_proj.",
    }
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


EXAONE4 = {"num_hidden_layers": 4, "sliding_window": WINDOW, "sliding_window_pattern": 2}

CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "llama": _plain("llama", rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "llama-untied": _plain("llama", attention_bias=True, mlp_bias=True, head_dim=32),
    "llama-bf16": _plain("llama", dtype="bfloat16"),
    "llama-f16": _plain("llama", dtype="float16", tie_word_embeddings=True),
    "llama-wide": _plain("llama", intermediate_size=256),
    "hyperclovax": _plain(
        "hyperclovax",
        embedding_multiplier=3.0,
        logits_scaling=0.25,
        residual_multiplier=0.5,
        attention_multiplier=0.1,
    ),
    "exaone": _exaone,
    "exaone4": _plain("exaone4", **EXAONE4),
    "exaone4-global": _plain(
        "exaone4", sliding_window=None, layer_types=["full_attention"] * 2, tie_word_embeddings=True
    ),
    "qwen2": _plain("qwen2", tie_word_embeddings=True),
    "qwen2-windows": _plain(
        "qwen2", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen2-all-windows": _plain(
        "qwen2", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=0
    ),
    "qwen3": _plain("qwen3", head_dim=32),
}

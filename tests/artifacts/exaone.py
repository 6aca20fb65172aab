"""EXAONE 3's checkpoints, whose code transformers doesn't have: a Llama under other names.

The oracle is the Llama.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

CONFIG = {
    "num_hidden_layers": "num_layers",
    "rms_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
}
KEPT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rope_theta",
    "rope_parameters",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
)
TENSORS = {
    r"model\.embed_tokens\.": "transformer.wte.",
    r"model\.norm\.": "transformer.ln_f.",
    r"\.input_layernorm\.": ".ln_1.",
    r"\.post_attention_layernorm\.": ".ln_2.",
    r"\.self_attn\.o_proj\.": ".attn.attention.out_proj.",
    r"\.self_attn\.": ".attn.attention.",
    r"\.mlp\.gate_proj\.": ".mlp.c_fc_0.",
    r"\.mlp\.up_proj\.": ".mlp.c_fc_1.",
    r"\.mlp\.down_proj\.": ".mlp.c_proj.",
    r"model\.layers\.": "transformer.h.",
}


def write(llama: Path, target: Path) -> Path:
    """The Llama's checkpoint in EXAONE 3's form."""
    shutil.copytree(llama, target, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    given = json.loads((llama / "config.json").read_text())
    config = {name: given[name] for name in KEPT if name in given}
    config |= {theirs: given[ours] for ours, theirs in CONFIG.items()}
    config |= {"model_type": "exaone", "architectures": ["ExaoneForCausalLM"]}
    (target / "config.json").write_text(json.dumps(config))
    weights = load_file(llama / "model.safetensors")
    renamed = {_renamed(name): tensor for name, tensor in weights.items()}
    save_file(renamed, target / "model.safetensors", {"format": "pt"})
    return target


def _renamed(name: str) -> str:
    for pattern, replacement in TENSORS.items():
        name = re.sub(pattern, replacement, name)
    return name

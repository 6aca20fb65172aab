"""The families of models that are compiled, as data.

A family whose code `transformers` doesn't have is brought to one that it has by renaming: no code
that comes with a checkpoint is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Family:
    """What differs between families.

    Attributes:
        wrapper: vLLM's class that serves the artifact.
        model_type: of the config that `transformers` builds the model from.
        config_names: fields of the checkpoint's config that have other names in that one.
        config_rest: fields that the checkpoint's config doesn't have, with their values.
        tensor_names: pattern and replacement of each kind of tensor that has another name.
    """

    wrapper: str
    model_type: str
    config_names: Mapping[str, str] = field(default_factory=dict)
    config_rest: Mapping[str, Any] = field(default_factory=dict)
    tensor_names: Mapping[str, str] = field(default_factory=dict)

    def config(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """A checkpoint's config as one of `model_type`."""
        renamed = {self.config_names.get(key, key): value for key, value in source.items()}
        return {**self.config_rest, **renamed, "model_type": self.model_type}

    def tensor(self, name: str) -> str:
        """A checkpoint's name of a tensor as that of `transformers`."""
        for pattern, replacement in self.tensor_names.items():
            renamed, count = re.subn(pattern, replacement, name)
            if count:
                return renamed
        return name


_LAYER = r"^transformer\.h\.(\d+)\."

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(wrapper="NPULlamaForCausalLM", model_type="llama"),
    "HyperCLOVAXForCausalLM": Family(wrapper="NPULlamaForCausalLM", model_type="hyperclovax"),
    # EXAONE 3.0 and 3.5 are Llamas under other names.
    "ExaoneForCausalLM": Family(
        wrapper="NPUExaoneForCausalLM",
        model_type="llama",
        config_names={
            "num_layers": "num_hidden_layers",
            "layer_norm_epsilon": "rms_norm_eps",
            "activation_function": "hidden_act",
        },
        config_rest={"attention_bias": False, "mlp_bias": False},
        tensor_names={
            r"^transformer\.wte\.": "model.embed_tokens.",
            r"^transformer\.ln_f\.": "model.norm.",
            _LAYER + r"ln_1\.": r"model.layers.\1.input_layernorm.",
            _LAYER + r"ln_2\.": r"model.layers.\1.post_attention_layernorm.",
            _LAYER + r"attn\.attention\.([qkv])_proj\.": r"model.layers.\1.self_attn.\2_proj.",
            _LAYER + r"attn\.attention\.out_proj\.": r"model.layers.\1.self_attn.o_proj.",
            _LAYER + r"mlp\.c_fc_0\.": r"model.layers.\1.mlp.gate_proj.",
            _LAYER + r"mlp\.c_fc_1\.": r"model.layers.\1.mlp.up_proj.",
            _LAYER + r"mlp\.c_proj\.": r"model.layers.\1.mlp.down_proj.",
        },
    ),
    "Exaone4ForCausalLM": Family(wrapper="NPUExaone4ForCausalLM", model_type="exaone4"),
    "Qwen2ForCausalLM": Family(wrapper="NPUQwen2ForCausalLM", model_type="qwen2"),
    "Qwen3ForCausalLM": Family(wrapper="NPUQwen3ForCausalLM", model_type="qwen3"),
}
"""By the architecture that a checkpoint's config names."""

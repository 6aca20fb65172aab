"""The Hugging Face model without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Of a checkpoint's config, what says where it comes from or names code that comes with it.
_NOT_FIELDS = ("auto_map", "_name_or_path", "transformers_version", "architectures")
# They change with the length of the text, which a graph can't.
VARYING_ROPE = ("dynamic", "longrope")


def config_of(fields: Mapping[str, Any]) -> PretrainedConfig:
    """The config of `model_type`, whose class is always that of `transformers`.

    Raises:
        ConfigurationError: it has no such class, or the class refuses the fields.
    """
    from transformers import CONFIG_MAPPING

    kind = str(fields.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ConfigurationError(
            f"This version of transformers has no model type '{kind}'. Update transformers."
        )
    kept = {key: value for key, value in fields.items() if key not in _NOT_FIELDS}
    try:
        return CONFIG_MAPPING[kind].from_dict(kept)
    except Exception as error:  # whatever class of error its validators raise
        raise ConfigurationError(f"config.json is refused by transformers: {error}") from error


def rope_type(config: PretrainedConfig) -> str:
    """How rotary embeddings are scaled, by the name in `transformers`."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return str(parameters.get("rope_type", "default"))


def sliding_windows(config: PretrainedConfig) -> tuple[int | None, ...]:
    """Of each layer, in tokens, the newest included; None: it attends to all."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    if strange := sorted({*kinds} - {"full_attention", "sliding_attention"}):
        raise ConfigurationError(f"Layers of type {', '.join(strange)} can't be compiled.")
    return tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds)


def skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """The model with parameters on the meta device and everything else in memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", dtype=torch.float32
        )
    for module in model.modules():
        buffers = dict(module.named_buffers(recurse=False))
        if any(buffer.is_meta for buffer in buffers.values()):
            # Frequencies of rotary embeddings: the only buffers in these families.
            made = dict(type(module)(config).named_buffers(recurse=False))
            for name in buffers:
                module.register_buffer(name, made[name], persistent=False)
    return model.eval().requires_grad_(False)

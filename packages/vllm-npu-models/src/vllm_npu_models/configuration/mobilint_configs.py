"""The configurations that Mobilint's releases come with, which `transformers` would take for remote
code: those of the families, under model types of their own.

Plain classes in a module, as vLLM sends them from process to process.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, Exaone4Config, LlamaConfig, Qwen2Config, Qwen3Config


class MobilintLlamaConfig(LlamaConfig):
    """Llama's."""

    model_type = "mobilint-llama"


class MobilintExaoneConfig(LlamaConfig):
    """EXAONE 3's: Llama's, with other names of some fields."""

    model_type = "mobilint-exaone"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As Llama's, under Llama's names."""
        names = {
            "num_layers": "num_hidden_layers",
            "layer_norm_epsilon": "rms_norm_eps",
            "activation_function": "hidden_act",
        }
        given = {names.get(name, name): value for name, value in config_dict.items()}
        return super().from_dict(given, **kwargs)


class MobilintExaone4Config(Exaone4Config):
    """EXAONE 4's."""

    model_type = "mobilint-exaone4"


class MobilintQwen2Config(Qwen2Config):
    """Qwen2's."""

    model_type = "mobilint-qwen2"


class MobilintQwen3Config(Qwen3Config):
    """Qwen3's."""

    model_type = "mobilint-qwen3"


def register() -> None:
    """Make them known to `transformers`."""
    for config in (
        MobilintLlamaConfig,
        MobilintExaoneConfig,
        MobilintExaone4Config,
        MobilintQwen2Config,
        MobilintQwen3Config,
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)

"""The dtype that vLLM takes a model for: the one that was compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import ModelConfig


def compiled_dtype(model_config: ModelConfig) -> torch.dtype | None:
    """The dtype in config.json; None if it names none.

    Raises:
        ConfigurationError: the user asked for another. What vLLM would have chosen by itself,
            which is another one on some platforms, counts as not asked for.
    """
    from vllm.config.model import _get_and_verify_dtype as resolve

    config = model_config.hf_text_config
    compiled: torch.dtype | None = getattr(config, "dtype", None)
    if compiled is None or model_config.dtype == compiled:
        return compiled
    automatic = resolve(
        model_config.model,
        model_config.hf_config,
        "auto",
        is_pooling_model=model_config.runner_type == "pooling",
        revision=model_config.revision,
        config_format=model_config.config_format,
    )
    if model_config.dtype != automatic:
        raise ConfigurationError(
            f"--dtype {_short(model_config.dtype)}: the model was compiled for {_short(compiled)}. "
            f"Leave it out, or compile the model with `vllm-npu compile --dtype "
            f"{_short(model_config.dtype)}`."
        )
    return compiled


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""The suite's settings, as far as a session has a use for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import Settings

if TYPE_CHECKING:
    from vllm.config import VllmConfig

SECTION = "npu"
_KV_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def session_settings(vllm_config: VllmConfig) -> tuple[Settings, torch.dtype | None]:
    """The settings under "npu" of `--additional-config`, with variables over them, and the dtype
    of keys and values; None: the best that goes with the artifact.

    Raises:
        ConfigurationError: a setting that can't be honoured.
    """
    given = (vllm_config.additional_config or {}).get(SECTION, {})
    if not isinstance(given, dict):
        raise ConfigurationError(
            f"additional-config: '{SECTION}' is {given!r}; it must be an object of settings."
        )
    settings = Settings.load(given)
    return settings, _kv_dtype(settings.kv_cache_dtype, vllm_config.cache_config.cache_dtype)


def _kv_dtype(ours: str, theirs: str) -> torch.dtype | None:
    if ours != "auto" and theirs != "auto":
        raise ConfigurationError(
            f"--kv-cache-dtype {theirs} and the setting kv_cache_dtype '{ours}' contradict each "
            "other. Leave one out."
        )
    if ours != "auto":
        chosen: torch.dtype = getattr(torch, ours)
        return chosen
    if theirs == "auto":
        return None
    if theirs not in _KV_DTYPES:
        raise ConfigurationError(
            f"--kv-cache-dtype {theirs}: a session keeps KV in {', '.join(_KV_DTYPES)}, or in "
            "uint8 or uint4 with the setting kv_cache_dtype. Choose one; 'auto' takes what goes "
            "with the artifact."
        )
    return _KV_DTYPES[theirs]

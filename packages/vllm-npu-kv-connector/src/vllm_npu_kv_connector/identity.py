"""What KV depends on beside its tokens: blocks of another identity are never read.

vLLM's block hashes bind the tokens before a block, adapters, multimodal inputs and cache salts.
This binds all the rest: which model, with which weights, computed how, laid out how.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vllm
from vllm import envs

from vllm_npu_kv_connector import __version__
from vllm_npu_kv_connector.weights import fingerprint
from vllm_npu_runtime.device import find
from vllm_npu_runtime.settings import Settings

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

_SECTION = "npu"
_PLATFORM = "vllm_npu_platform"
_REMEMBERED = "npu-weights"
# They change neither KV nor its layout: how steps are cut, which engines that prefill and engines
# that decode want different.
_IRRELEVANT = {
    "strict",
    "warm_up",
    "run_timeout",
    "token_bucket",
    "decode_batch_bucket",
    "prefill_chunk_bucket",
    "prefill_chunk_size",
    "dynamic_tokens",
}


def identity_of(config: VllmConfig, kv_cache: KVCacheConfig, tokens_per_chunk: int) -> str:
    """SHA-256 of all that KV blocks must have in common, hexadecimal.

    Args:
        config: vLLM's.
        kv_cache: groups of layers with their specifications.
        tokens_per_chunk: in the unit that is stored.
    """
    parallel, cache, speculation = (
        config.parallel_config,
        config.cache_config,
        config.speculative_config,
    )
    draft = speculation.draft_model_config if speculation is not None else None
    parts: dict[str, Any] = {
        "vllm": vllm.__version__,
        "connector": __version__,
        "model": _model(config, config.model_config),
        "draft": _model(config, draft) if draft is not None else None,
        "device": _device(config),
        "additional": _others(config),
        "hash": cache.prefix_caching_hash_algo,
        "cache_dtype": cache.cache_dtype,
        "layout": cache.kv_cache_layout,
        "tokens_per_chunk": tokens_per_chunk,
        "groups": [
            [repr(group.kv_cache_spec), list(group.layer_names)]
            for group in kv_cache.kv_cache_groups
        ],
        "parallel": [
            parallel.tensor_parallel_size,
            parallel.pipeline_parallel_size,
            parallel.prefill_context_parallel_size,
            parallel.decode_context_parallel_size,
        ],
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _model(config: VllmConfig, model: ModelConfig) -> dict[str, Any]:
    commit = getattr(model.hf_config, "_commit_hash", None)
    load_format = config.load_config.load_format
    return {
        "weights": fingerprint(Path(model.model), Path(envs.VLLM_CACHE_ROOT) / _REMEMBERED)
        or [model.model, model.revision, commit],
        "config": _architecture(model.hf_config.to_dict()),
        "dtype": str(model.dtype),
        "quantization": model.quantization,
        # Weights that are made up differ by their seed.
        "dummy": [load_format, model.seed] if load_format == "dummy" else None,
    }


def _others(config: VllmConfig) -> Any:
    """Settings of other plugins, as of those that change weights while they load them."""
    given = config.additional_config
    if not isinstance(given, dict):
        return repr(given)
    return {name: section for name, section in given.items() if name != _SECTION}


def _architecture(config: Any) -> Any:
    """A configuration without where it lies and who wrote it."""
    if not isinstance(config, dict):
        return config
    return {
        str(name): _architecture(value)
        for name, value in config.items()
        if not str(name).startswith("_") and name != "transformers_version"
    }


def _device(config: VllmConfig) -> Any:
    """The device's fingerprint and settings on our platform, and other platforms' names."""
    from vllm.platforms import current_platform

    if type(current_platform).__module__.split(".")[0] != _PLATFORM:
        return [current_platform.device_type, type(current_platform).__qualname__]
    given = config.additional_config if isinstance(config.additional_config, dict) else {}
    settings = Settings.load(given.get(_SECTION, {}))
    device = find(settings.device)
    return [
        device.name,
        device.driver.fingerprint(device.info.name),
        settings.model_dump(mode="json", exclude=_IRRELEVANT),
    ]

"""What a compiled graph depends on, known before anything is traced."""

from __future__ import annotations

import hashlib
import sys
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import vllm
import vllm.envs

import vllm_npu_platform
import vllm_npu_runtime
from vllm_npu_platform import __version__
from vllm_npu_platform.graph.shapes import contract_of, graph_shapes
from vllm_npu_platform.kv_cache import is_opaque, kv_dtype
from vllm_npu_platform.target import SECTION
from vllm_npu_runtime.compile_cache.key import CacheKey
from vllm_npu_runtime.compile_cache.location import cache_directory, enabled
from vllm_npu_runtime.compile_cache.store import CompileCache

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from vllm_npu_platform.target import Target

QUANTIZATION = "vllm_npu_quantization"
"""A sibling whose code layers may call; it isn't imported here."""
# They change neither a graph nor how it is compiled.
_IRRELEVANT = {"device", "strict", "warm_up", "run_timeout"}


def compile_cache(
    config: VllmConfig, target: Target, model: torch.nn.Module
) -> CompileCache | None:
    """The cache of this configuration's graphs; None where caching is switched off."""
    if not enabled():
        return None
    return CompileCache(cache_directory(), cache_key(config, target, model))


def cache_key(config: VllmConfig, target: Target, traced: torch.nn.Module) -> CacheKey:
    """Everything that a graph of this configuration depends on.

    Weights aren't in it: a saved graph takes them from the checkpoint.

    Args:
        config: vLLM's.
        target: the device and our settings.
        traced: the model, of which every module's code counts.
    """
    model, cache = config.model_config, config.cache_config
    device, driver = target.device.info.name, target.device.driver
    parts: dict[str, Any] = {
        "model": model.model,
        "architectures": list(model.architectures),
        "dtype": _name(model.dtype),
        "device": target.device.name,
        "driver": driver.fingerprint(device),
        "settings": target.settings.model_dump(mode="json", exclude=_IRRELEVANT),
        "contract": str(contract_of(target, config)),
        "shapes": [repr(shape) for shape in graph_shapes(config, target)],
        "kv_cache": {
            "dtype": _name(kv_dtype(config, target)),
            "block_size": cache.block_size,
            # A cache in the driver's own layout may have any number of blocks.
            "blocks": None if is_opaque(config, target) else cache.num_gpu_blocks,
        },
        "max_model_len": model.max_model_len,
        "speculation": _speculation(config),
        "rank": [config.parallel_config.rank, config.parallel_config.world_size],
        "vllm": [vllm.__version__, _without_ours(config).compute_hash(), _environment()],
        "torch": torch.__version__,
        "platform": __version__,
        "code": _code(traced),
    }
    return CacheKey(parts)


def _code(traced: torch.nn.Module) -> str:
    """Digest of what traces and converts, and of the files that the model's classes come from.

    Versions don't tell an edited file, as in an editable install or a model plugin.
    """
    modules = {sys.modules.get(type(each).__module__) for each in traced.modules()}
    files = {getattr(module, "__file__", None) for module in modules}
    paths = {Path(file) for file in files if file is not None}
    packages = [vllm_npu_platform, vllm_npu_runtime]
    if (plugin := sys.modules.get(QUANTIZATION)) is not None:
        packages.append(plugin)
    for package in packages:
        paths.update(Path(package.__path__[0]).rglob("*.py"))
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def _without_ours(config: VllmConfig) -> VllmConfig:
    """vLLM's configuration less our settings, of which the key has those that matter."""
    others = copy(config)
    given = config.additional_config
    if isinstance(given, dict):
        others.additional_config = {key: given[key] for key in given if key != SECTION}
    return others


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _speculation(config: VllmConfig) -> list[str] | None:
    speculation = config.speculative_config
    if speculation is None:
        return None
    draft = speculation.draft_model_config
    return [str(speculation.method), draft.compute_hash() if draft is not None else ""]


def _environment() -> str:
    """Digest of vLLM's variables that may change its model code's path; ours are settings."""
    factors = vllm.envs.compile_factors()
    known = sorted((key, str(value)) for key, value in factors.items() if "VLLM_NPU_" not in key)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]

"""The hook that vLLM calls for our architectures, on whichever platform it runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig

from vllm_npu_models.configuration import mobilint
from vllm_npu_models.configuration.dtype import compiled_dtype
from vllm_npu_models.configuration.limits import CompiledLimits
from vllm_npu_models.configuration.loader_config import OPTION, LoaderConfig
from vllm_npu_models.configuration.refusals import problems_of
from vllm_npu_models.configuration.rules import Schedule, Wanted, schedule
from vllm_npu_models.configuration.snapshots import connect
from vllm_npu_models.requests import CHECK
from vllm_npu_models.slots import blocks_for
from vllm_npu_models.target import session_settings
from vllm_npu_runtime.artifact import names
from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

_logger = logging.getLogger("vllm.npu")


class SessionModelConfig(VerifyAndUpdateConfig):
    """Sets vLLM up for a model that runs in a session."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Keep to the dtype and the length that were compiled.

        Raises:
            ConfigurationError: the user asked for another, or for more.
        """
        if (dtype := compiled_dtype(model_config)) is not None:
            _set(model_config, "dtype", dtype, "the model was compiled for it")
        compiled = CompiledLimits.of(model_config.hf_text_config).max_model_len
        length = model_config.max_model_len
        if compiled is None or length <= compiled:
            return
        if model_config.original_max_model_len is not None:
            raise ConfigurationError(
                f"--max-model-len {length}: the model was compiled for {compiled} tokens. Use "
                f"{compiled} or less, or compile it with `vllm-npu compile --max-model-len "
                f"{length}`."
            )
        _set(model_config, "max_model_len", compiled, "the model was compiled for it")

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Set the scheduler, the KV cache, the loader and the connector.

        Raises:
            ConfigurationError: every setting that a session can't honour.
        """
        settings, _ = session_settings(vllm_config)
        options = settings.driver_options
        problems = [*problems_of(vllm_config), *mobilint.speculation_problems(vllm_config, options)]
        if problems:
            raise ConfigurationError.several(problems)
        compiled = CompiledLimits.of(vllm_config.model_config.hf_text_config)
        loader = LoaderConfig.of(extra_config(vllm_config))
        scheduler = vllm_config.scheduler_config
        planned = schedule(
            compiled,
            loader,
            Wanted(
                scheduler.max_num_batched_tokens,
                scheduler.max_num_seqs,
                scheduler.long_prefill_token_threshold,
            ),
        )
        _apply(vllm_config, planned)
        _set_block_size(vllm_config, compiled)
        model = vllm_config.model_config
        if mobilint.last_token_only(vllm_config, options) and model.runner_type == "generate":
            model.logits_processors = [*(model.logits_processors or []), CHECK]
        connect(vllm_config, loader)


def extra_config(vllm_config: VllmConfig) -> dict[str, Any]:
    """What the user gave as `--model-loader-extra-config`."""
    given = vllm_config.load_config.model_loader_extra_config
    if not isinstance(given, dict):
        raise ConfigurationError(f"{OPTION} is {given!r}; it must be an object of settings.")
    return given


def _apply(vllm_config: VllmConfig, planned: Schedule) -> None:
    scheduler, cache = vllm_config.scheduler_config, vllm_config.cache_config
    why = planned.reasons
    _set(scheduler, "max_num_seqs", planned.slots, why.get("max_num_seqs", ""))
    tokens = planned.max_num_batched_tokens
    _set(scheduler, "max_num_batched_tokens", tokens, why.get("max_num_batched_tokens", ""))
    if scheduler.max_num_scheduled_tokens is not None:
        fewer = min(tokens, scheduler.max_num_scheduled_tokens)
        _set(scheduler, "max_num_scheduled_tokens", fewer, "a step takes no more")
    if planned.chunk < tokens:
        _set(
            scheduler,
            "long_prefill_token_threshold",
            planned.chunk,
            "a request may have so many tokens in a step",
        )
    _set(scheduler, "enable_chunked_prefill", True, "prompts are read in compiled chunks")
    # Not worth a line: how slots are counted, and that no weights are read.
    cache.num_gpu_blocks_override = blocks_for(planned.slots)
    vllm_config.load_config.load_format = names.LOAD_FORMAT


def _set_block_size(vllm_config: VllmConfig, compiled: CompiledLimits) -> None:
    cache = vllm_config.cache_config
    if compiled.block_size is not None and not cache.user_specified_block_size:
        _set(cache, "block_size", compiled.block_size, f"{names.BLOCK_SIZE} in config.json")


def _set(config: Any, name: str, value: object, why: str) -> None:
    old = getattr(config, name)
    if old == value:
        return
    setattr(config, name, value)
    _logger.info("%s: from %s to %s, as %s.", name, old, value, why)

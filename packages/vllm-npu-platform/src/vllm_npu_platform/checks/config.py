"""Which configurations can be honoured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_npu_platform.checks.checkpoint import tokenizer_problems, weights_problems
from vllm_npu_platform.checks.connector import connector_problems
from vllm_npu_platform.checks.quantization import quantization_problems, rounding_problems
from vllm_npu_platform.graph.shapes import contract_of, graph_shapes
from vllm_npu_platform.sessions import in_session
from vllm_npu_runtime.drivers.base import KVContract
from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig

    from vllm_npu_platform.target import Target

Check = Callable[["VllmConfig", "Target"], Iterator[str]]

DRAFT_METHODS = ("ngram", "draft_model")


def check_config(vllm_config: VllmConfig, target: Target) -> None:
    """Run every check.

    Raises:
        ConfigurationError: all problems at once, each with setting, value and fix.
    """
    checks = SESSION_CHECKS if in_session(vllm_config) else CHECKS
    if checks is CHECKS and (problem := _sessions_only(vllm_config, target)):
        raise ConfigurationError(problem)
    problems = [problem for check in checks for problem in check(vllm_config, target)]
    if problems:
        raise ConfigurationError.several(problems)


def check_choices(vllm_config: VllmConfig) -> None:
    """Check what vLLM overwrites before it asks for the other checks.

    Raises:
        ConfigurationError: the user chose what there isn't.
    """
    if problems := list(_cuda_graphs(vllm_config)):
        raise ConfigurationError.several(problems)


def _sessions_only(config: VllmConfig, target: Target) -> str | None:
    """Alone, as on such a device nothing of the other checks applies."""
    if config.model_config is None or target.device.capabilities.kv_contracts:
        return None
    return (
        f"{config.model_config.model}: {target.device.name} runs only models that were compiled "
        "ahead of time for it, and this is a checkpoint. Compile it first, and serve what that "
        "writes."
    )


def _parallelism(config: VllmConfig, _target: Target) -> Iterator[str]:
    parallel = config.parallel_config
    sizes = {
        "tensor-parallel-size": parallel.tensor_parallel_size,
        "pipeline-parallel-size": parallel.pipeline_parallel_size,
        "data-parallel-size": parallel.data_parallel_size,
        "decode-context-parallel-size": parallel.decode_context_parallel_size,
        "prefill-context-parallel-size": parallel.prefill_context_parallel_size,
    }
    for name, size in sizes.items():
        if size > 1:
            yield f"--{name} {size}: one engine runs on one device for now. Use 1."
    if parallel.enable_expert_parallel:
        yield "--enable-expert-parallel: not supported yet. Leave it out."
    if parallel.use_ubatching:
        yield "--enable-dbo: steps are not split into micro-batches here. Leave it out."


def _features(config: VllmConfig, target: Target) -> Iterator[str]:
    model, cache = config.model_config, config.cache_config
    if config.lora_config is not None:
        yield (
            "--enable-lora: adapters would be traced away in a static graph, so they are refused "
            "until they are inputs of it. Merge the adapter into the checkpoint."
        )
    if model is not None and model.enable_sleep_mode:
        yield "--enable-sleep-mode: not supported yet. Leave it out."
    yield from connector_problems(config, target)
    if cache.kv_offloading_size is not None:
        # vLLM makes a connector of it only after these checks.
        yield (
            f"--kv-offloading-size {cache.kv_offloading_size}: vLLM makes a connector for CUDA of "
            "it. Leave it out, and use --kv-transfer-config with NPUConnector."
        )
    if (backend := config.attention_config.backend) is not None and backend.name != "CUSTOM":
        yield (
            f"--attention-backend {backend.name}: the platform brings its own (CUSTOM). Leave it "
            "out."
        )
    if config.ec_transfer_config is not None:
        yield "--ec-transfer-config: there is no multimodal encoder to transfer from. Leave it out."
    if cache.kv_sharing_fast_prefill:
        yield "--kv-sharing-fast-prefill: needs a graph of its own. Leave it out."
    if config.offload_config.uva.cpu_offload_gb > 0:
        yield f"--cpu-offload-gb {config.offload_config.uva.cpu_offload_gb}: not supported. Use 0."
    if config.offload_config.prefetch.offload_group_size > 0:
        yield "--offload-group-size: not supported. Leave it out."


def _environment(config: VllmConfig, _target: Target) -> Iterator[str]:
    import vllm.envs as envs

    if envs.VLLM_BATCH_INVARIANT:
        yield ("VLLM_BATCH_INVARIANT=1: its kernels need Triton, which doesn't run here. Unset it.")
    if config.use_v2_model_runner:
        yield (
            "VLLM_USE_V2_MODEL_RUNNER=1, or a feature that needs it: this platform extends the "
            "V1 model runner. Unset it."
        )


def _model(config: VllmConfig, target: Target) -> Iterator[str]:
    model, device = config.model_config, target.device
    if model is None:
        return
    architecture = ", ".join(model.architectures)
    if model.dtype not in device.capabilities.dtypes:
        allowed = ", ".join(_short(dtype) for dtype in device.capabilities.dtypes)
        yield f"--dtype {_short(model.dtype)}: {device.name} serves {allowed}. Choose one."
    yield from quantization_problems(config, target)
    if model.multimodal_config is not None:
        yield f"{architecture}: multimodal models are not supported yet. Use a text-only model."
    if model.is_encoder_decoder:
        yield f"{architecture}: encoder-decoder models are not supported. Use a decoder or encoder."
    if model.has_inner_state or model.is_hybrid:
        yield f"{architecture}: models with state-space or linear attention are not supported."
    if model.is_moe:
        yield f"{architecture}: mixture-of-experts models are not supported yet. Use a dense model."
    if model.uses_mrope:
        yield f"{architecture}: multimodal rotary positions (M-RoPE) are not supported yet."
    if model.use_mla:
        yield f"{architecture}: multi-head latent attention (MLA) is not supported."


def _checkpoint(config: VllmConfig, _target: Target) -> Iterator[str]:
    model = config.model_config
    if model is None:
        return
    weights, tokenizer = Path(model.model), Path(model.tokenizer or model.model)
    if weights.is_dir() and config.load_config.load_format in ("auto", "hf", "safetensors"):
        yield from weights_problems(weights)
    if tokenizer.is_dir() and not model.skip_tokenizer_init:
        yield from tokenizer_problems(tokenizer)


def _kv_cache(config: VllmConfig, target: Target) -> Iterator[str]:
    from vllm_npu_platform.kv_cache import is_opaque, kv_dtype

    model, cache = config.model_config, config.cache_config
    capabilities = target.device.capabilities
    if model is None:
        return
    try:
        dtype = kv_dtype(config, target)
    except ConfigurationError as error:
        yield str(error)
        return
    quantized = cache.cache_dtype.startswith(("fp8", "int8", "nvfp4", "turboquant", "ultraquant"))
    # "auto" is the model's dtype; where that is refused already, mending it mends this.
    automatic = cache.cache_dtype == target.settings.kv_cache_dtype == "auto"
    refused = automatic and dtype not in capabilities.dtypes
    kept = list(capabilities.kv_cache_dtypes)
    if not is_opaque(config, target):
        # The host writes a plain cache, and it can't quantize; graphs widen what they read of it.
        floats = [each for each in kept if each.is_floating_point]
        kept = list(dict.fromkeys([*floats, *capabilities.arithmetic]))
    if quantized or (dtype not in kept and not refused):
        allowed = ", ".join(map(_short, kept))
        yield (
            f"{_kv_option(config, target)}: {target.device.name} keeps KV in {allowed}. "
            f"Choose one; 'auto' takes {_automatic(model.dtype, target)}."
        )
    sizes = capabilities.block_sizes
    given = cache.user_specified_block_size
    if given and sizes is not None and cache.block_size not in sizes:
        allowed = ", ".join(map(str, sizes))
        yield f"--block-size {cache.block_size}: {target.device.name} takes {allowed}."


def _driver(config: VllmConfig, target: Target) -> Iterator[str]:
    from vllm_npu_platform.graph.compiler import compile_options

    device, model = target.device, config.model_config
    # What is wrong with these, the checks above have said.
    if model is None or model.dtype not in device.capabilities.dtypes:
        return
    if any(_kv_cache(config, target)):
        return
    try:
        device.driver.check(device.info.name, model.dtype, compile_options(config, target))
    except ConfigurationError as error:
        yield str(error)


def _speculation(config: VllmConfig, _target: Target) -> Iterator[str]:
    speculation = config.speculative_config
    if speculation is not None and speculation.method not in DRAFT_METHODS:
        yield (
            f"--speculative-config method '{speculation.method}': supported are "
            f"{', '.join(DRAFT_METHODS)}."
        )


def _compilation(config: VllmConfig, target: Target) -> Iterator[str]:
    from vllm.config import CompilationMode

    compilation = config.compilation_config
    if compilation.mode not in (None, CompilationMode.NONE):
        yield (
            f"--compilation-config mode {compilation.mode.name}: the platform compiles the model "
            "itself. Leave the mode out."
        )
    yield from _cuda_graphs(config)
    if in_session(config):
        return
    if config.model_config is not None and config.model_config.enforce_eager:
        capabilities = target.device.capabilities
        if capabilities.static_shapes_only:
            yield (
                f"--enforce-eager: {target.device.name} runs compiled programs only. Leave it out; "
                "VLLM_NPU_WARM_UP=0 shortens the start."
            )


def _cuda_graphs(config: VllmConfig) -> Iterator[str]:
    from vllm.config import CUDAGraphMode

    mode = config.compilation_config.cudagraph_mode
    if mode not in (None, CUDAGraphMode.NONE):
        yield (
            f"--compilation-config cudagraph_mode {mode.name}: there is no CUDA here. Leave it out."
        )


def _shapes(config: VllmConfig, target: Target) -> Iterator[str]:
    if config.model_config is None:
        return
    try:
        shapes = graph_shapes(config, target)
    except ConfigurationError as error:
        yield str(error)
        return
    scheduler, capabilities = config.scheduler_config, target.device.capabilities
    paged = contract_of(target, config) is KVContract.PAGED
    most = capabilities.max_tokens
    if paged and most is not None and scheduler.max_num_batched_tokens > most:
        yield (
            f"--max-num-batched-tokens {scheduler.max_num_batched_tokens}: {target.device.name} "
            f"runs {most} tokens at most. Use {most} or less."
        )
    if not shapes:
        yield "No graph would be compiled."


CHECKS: tuple[Check, ...] = (
    _parallelism,
    _features,
    _environment,
    _model,
    rounding_problems,
    _checkpoint,
    _kv_cache,
    _driver,
    _speculation,
    _compilation,
    _shapes,
)
# What is left to check where the model brings its KV and its graphs itself.
SESSION_CHECKS: tuple[Check, ...] = (_parallelism, _environment, _model, _compilation)


def _kv_option(config: VllmConfig, target: Target) -> str:
    """Where the KV dtype was given, and as what."""
    if target.settings.kv_cache_dtype != "auto":
        return f"kv_cache_dtype '{target.settings.kv_cache_dtype}'"
    return f"--kv-cache-dtype {config.cache_config.cache_dtype}"


def _automatic(dtype: torch.dtype, target: Target) -> str:
    """What KV is kept in where nobody chose, for a model's dtype."""
    from vllm_npu_platform.kv_cache import automatic_dtype

    chosen = automatic_dtype(dtype, target)
    return f"the model's dtype, {_short(dtype)}" if chosen is dtype else _short(chosen)


def _short(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")

"""Refuse, never ignore: every setting that can't be honoured, by name."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.config import (
    CompilationConfig,
    CompilationMode,
    CUDAGraphMode,
    KVTransferConfig,
    ModelConfig,
    VllmConfig,
)
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.selector import AttentionSelectorConfig

from vllm_npu_platform.attention.backend import NPUAttentionImpl
from vllm_npu_platform.checks.attention import check_attention
from vllm_npu_platform.checks.config import check_config
from vllm_npu_platform.checks.defaults import (
    SCHEDULER,
    apply_defaults,
    quiet_about_own_scheduler,
    use_own_scheduler,
)
from vllm_npu_platform.checks.request import check_request
from vllm_npu_platform.target import Target
from vllm_npu_runtime.drivers.base import KVContract
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import BucketSettings

MakeTarget = Callable[..., Target]
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def supported(tmp_path_factory: pytest.TempPathFactory) -> VllmConfig:
    directory: Path = tmp_path_factory.mktemp("llama")
    (directory / "config.json").write_text(json.dumps(LLAMA))
    model = ModelConfig(str(directory), skip_tokenizer_init=True, dtype="float32")
    return VllmConfig(model_config=model)


@pytest.fixture
def altered(
    supported: VllmConfig, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], VllmConfig]:
    """The supported configuration with other values, by path; nothing is made up but values."""

    def alter(values: dict[str, Any]) -> VllmConfig:
        config = copy.deepcopy(supported)
        for path, value in values.items():
            *parents, name = path.split(".")
            owner = attrgetter(".".join(parents))(config) if parents else config
            assert hasattr(owner, name)
            if isinstance(getattr(type(owner), name, None), property):
                monkeypatch.setattr(type(owner), name, value)
            else:
                setattr(owner, name, value)
        return config

    return alter


def test_a_supported_configuration_passes(supported: VllmConfig, make_target: MakeTarget) -> None:
    for contract in KVContract:
        check_config(supported, make_target(kv_contract=contract))


ACCEPTED = [
    {"model_config.dtype": torch.bfloat16},
    {"model_config.dtype": torch.float16},
    {"model_config.enforce_eager": True},
    {"cache_config.cache_dtype": "bfloat16"},
    {"speculative_config": SimpleNamespace(method="ngram")},
    {"speculative_config": SimpleNamespace(method="draft_model")},
]


@pytest.mark.parametrize("values", ACCEPTED, ids=str)
def test_what_is_supported_passes(
    values: dict[str, Any],
    altered: Callable[..., VllmConfig],
    make_target: MakeTarget,
) -> None:
    check_config(altered(values), make_target())


@pytest.mark.parametrize("contract", KVContract)
def test_without_a_model_there_is_nothing_to_refuse(
    contract: KVContract, make_target: MakeTarget
) -> None:
    """vLLM makes such a configuration where code asks for one and none is set."""
    check_config(VllmConfig(), make_target({"max_tokens": 16}, kv_contract=contract))


def test_weights_packed_in_a_format_that_the_device_takes(
    altered: Callable[[dict[str, Any]], VllmConfig], make_target: MakeTarget
) -> None:
    """The checkpoint's config tells the format; the device lists what it takes."""
    needs = SimpleNamespace(npu_weight_formats=frozenset({"uint4", "uint8b128"}))
    config = altered({"model_config.quantization": "awq", "quant_config": needs})
    check_config(config, make_target({"weight_formats": ("uint8b128", "uint4")}))
    with pytest.raises(ConfigurationError, match="has uint4 weights; paper takes uint8b128") as one:
        check_config(config, make_target({"weight_formats": ("uint8b128",)}))
    assert "can't be honoured" not in str(one.value)
    with pytest.raises(ConfigurationError, match="takes no packed weights"):
        check_config(config, make_target({"weight_formats": ()}))


@pytest.mark.parametrize("method", ["gptq", "awq_marlin", "compressed-tensors"])
def test_checkpoints_of_the_quantization_plugin_without_it(
    altered: Callable[[dict[str, Any]], VllmConfig], make_target: MakeTarget, method: str
) -> None:
    """They are left to vLLM, whose own error tells what is missing."""
    check_config(altered({"model_config.quantization": method}), make_target())


def test_rounded_activations_need_packed_weights(
    altered: Callable[[dict[str, Any]], VllmConfig], make_target: MakeTarget
) -> None:
    """A driver's option that would do nothing is refused, with the methods that it is for."""
    target = make_target({}, driver_options={"dynamic_quantization": 32})
    with pytest.raises(ConfigurationError) as error:
        check_config(altered({}), target)
    told = str(error.value)
    assert "driver_options 'dynamic_quantization' 32" in told
    for method in ("npu_w4a16", "npu_w8a16", "gptq", "awq", "compressed-tensors"):
        assert method in told
    needs = SimpleNamespace(npu_weight_formats=frozenset({"uint8b128"}))
    packed = altered({"model_config.quantization": "npu_w8a16", "quant_config": needs})
    limits = {"weight_formats": ("uint8b128",)}
    # A driver without the option refuses it by itself.
    with pytest.raises(ConfigurationError, match=r"Unknown option.*'dynamic_quantization'"):
        check_config(packed, make_target(limits, driver_options={"dynamic_quantization": 32}))


REFUSED = [
    ("parallel_config.tensor_parallel_size", 2, "--tensor-parallel-size 2"),
    ("parallel_config.pipeline_parallel_size", 2, "--pipeline-parallel-size 2"),
    ("parallel_config.data_parallel_size", 2, "--data-parallel-size 2"),
    ("parallel_config.decode_context_parallel_size", 2, "--decode-context-parallel-size 2"),
    ("parallel_config.prefill_context_parallel_size", 2, "--prefill-context-parallel-size 2"),
    ("parallel_config.enable_expert_parallel", True, "--enable-expert-parallel"),
    ("parallel_config.use_ubatching", True, "--enable-dbo"),
    ("lora_config", SimpleNamespace(), "--enable-lora"),
    ("model_config.enable_sleep_mode", True, "--enable-sleep-mode"),
    (
        "kv_transfer_config",
        KVTransferConfig("ExampleConnector", engine_id="one", kv_role="kv_both"),
        "relies on hooks",
    ),
    ("ec_transfer_config", SimpleNamespace(), "--ec-transfer-config"),
    ("cache_config.kv_sharing_fast_prefill", True, "--kv-sharing-fast-prefill"),
    ("offload_config.uva.cpu_offload_gb", 4, "--cpu-offload-gb 4"),
    ("offload_config.prefetch.offload_group_size", 2, "--offload-group-size"),
    ("model_config.dtype", torch.float64, "--dtype float64: paper serves float32, bfloat16"),
    ("model_config.quantization", "fp8", "--quantization fp8: not supported"),
    ("model_config.multimodal_config", SimpleNamespace(), "LlamaForCausalLM: multimodal"),
    ("model_config.is_encoder_decoder", True, "LlamaForCausalLM: encoder-decoder"),
    ("model_config.has_inner_state", True, "LlamaForCausalLM: models with state-space"),
    ("model_config.is_hybrid", True, "LlamaForCausalLM: models with state-space"),
    ("model_config.is_moe", True, "LlamaForCausalLM: mixture-of-experts"),
    ("model_config.use_mla", True, "LlamaForCausalLM: multi-head latent attention"),
    ("cache_config.cache_dtype", "fp8", "--kv-cache-dtype fp8: paper keeps KV in float32"),
    ("cache_config.cache_dtype", "fp8_e5m2", "--kv-cache-dtype fp8_e5m2"),
    ("speculative_config", SimpleNamespace(method="eagle"), "supported are ngram, draft_model"),
    ("compilation_config.mode", CompilationMode.VLLM_COMPILE, "mode VLLM_COMPILE"),
    ("compilation_config.cudagraph_mode", CUDAGraphMode.FULL, "cudagraph_mode FULL"),
]


@pytest.mark.parametrize(
    ("path", "value", "text"), REFUSED, ids=[f"{path}-{value}" for path, value, _ in REFUSED]
)
def test_a_setting_that_is_not_supported_is_refused(
    path: str,
    value: object,
    text: str,
    altered: Callable[..., VllmConfig],
    make_target: MakeTarget,
) -> None:
    with pytest.raises(ConfigurationError) as error:
        check_config(altered({path: value}), make_target())
    message = str(error.value)
    assert text in message
    assert "\n" not in message  # One problem, one line.


DEVICE_REFUSES = [
    ({"dtypes": (torch.float16,)}, {}, "--dtype float32: paper serves float16"),
    (
        {"kv_cache_dtypes": (torch.float16,)},
        {},
        "--kv-cache-dtype auto: paper keeps KV in float16. Choose one",
    ),
    ({"max_tokens": 64}, {}, "runs 64 tokens at most. Use 64 or less"),
    ({"kv_contracts": (KVContract.GATHER,)}, {"kv_contract": "paged"}, "paper serves gather"),
    (
        {"max_batch_size": 4},
        {"kv_contract": "gather", "decode_batch_bucket": BucketSettings(min=8)},
        "decode_batch_bucket.min 8: a step holds at most 4",
    ),
]


@pytest.mark.parametrize(
    ("limits", "settings", "text"),
    DEVICE_REFUSES,
    ids=[str(limits) for limits, *_ in DEVICE_REFUSES],
)
def test_what_the_device_cannot_do_is_refused(
    limits: dict[str, Any],
    settings: dict[str, Any],
    text: str,
    supported: VllmConfig,
    make_target: MakeTarget,
) -> None:
    with pytest.raises(ConfigurationError) as error:
        check_config(supported, make_target(limits, **settings))
    assert text in str(error.value)


def test_a_checkpoint_on_a_device_for_compiled_models_alone_is_refused(
    supported: VllmConfig, make_target: MakeTarget
) -> None:
    """By name, and with nothing else that doesn't apply there."""
    target = make_target({"kv_contracts": (), "kv_cache_dtypes": (), "dtypes": ()})
    with pytest.raises(ConfigurationError, match="paper runs only models that were compiled") as e:
        check_config(supported, target)
    assert str(e.value).startswith(supported.model_config.model)
    assert "\n" not in str(e.value)


def test_a_block_size_that_the_device_does_not_take_is_refused(
    altered: Callable[..., VllmConfig], make_target: MakeTarget
) -> None:
    target = make_target({"block_sizes": (64, 128)})
    check_config(altered({}), target)  # vLLM's default gives way to the device's own
    chosen = altered(
        {"cache_config.block_size": 16, "cache_config.user_specified_block_size": True}
    )
    with pytest.raises(ConfigurationError, match="--block-size 16: paper takes 64, 128"):
        check_config(chosen, target)


def test_eager_mode_needs_a_device_that_runs_any_shape(
    altered: Callable[..., VllmConfig], make_target: MakeTarget
) -> None:
    config = altered({"model_config.enforce_eager": True})
    with pytest.raises(ConfigurationError, match=r"--enforce-eager: paper .* VLLM_NPU_WARM_UP=0"):
        check_config(config, make_target({"static_shapes_only": True}))


def test_all_problems_are_reported_at_once(
    altered: Callable[..., VllmConfig], make_target: MakeTarget
) -> None:
    config = altered(
        {
            "parallel_config.tensor_parallel_size": 2,
            "lora_config": SimpleNamespace(),
            "cache_config.cache_dtype": "fp8",
        }
    )
    with pytest.raises(ConfigurationError) as error:
        check_config(config, make_target())
    first, *lines = str(error.value).splitlines()
    assert first == "3 settings can't be honoured:"
    assert [line.split()[:2] for line in lines] == [
        ["1.", "--tensor-parallel-size"],
        ["2.", "--enable-lora:"],
        ["3.", "--kv-cache-dtype"],
    ]


def test_compilation_is_left_to_the_executor_unless_the_user_chose() -> None:
    left_open = SimpleNamespace(mode=None, cudagraph_mode=None, ir_enable_torch_wrap=True)
    apply_defaults(SimpleNamespace(compilation_config=left_open))
    assert left_open.mode is CompilationMode.NONE
    assert left_open.cudagraph_mode is CUDAGraphMode.NONE

    chosen = SimpleNamespace(mode=CompilationMode.VLLM_COMPILE, cudagraph_mode=CUDAGraphMode.FULL)
    apply_defaults(SimpleNamespace(compilation_config=chosen))
    assert chosen.mode is CompilationMode.VLLM_COMPILE
    assert chosen.cudagraph_mode is CUDAGraphMode.FULL


def test_cuda_graphs_are_refused_before_vllm_takes_them_back() -> None:
    chosen = CompilationConfig(cudagraph_mode=CUDAGraphMode.FULL)
    with pytest.raises(ValueError, match=r"cudagraph_mode FULL: there is no CUDA here"):
        VllmConfig(compilation_config=chosen)


def layer(**features: bool) -> AttentionSelectorConfig:
    return AttentionSelectorConfig(64, torch.float32, "auto", 16, **features)


@pytest.mark.parametrize("selected", [None, AttentionBackendEnum.CUSTOM])
def test_ordinary_attention_passes(selected: AttentionBackendEnum | None) -> None:
    check_attention(selected, layer(has_sliding_window=True))


@pytest.mark.parametrize(
    ("feature", "text"),
    [
        ("use_mla", "MLA"),
        ("use_sparse", "sparse attention"),
        ("has_sink", "attention sinks"),
        ("use_mm_prefix", "multimodal prefixes"),
        ("use_per_head_quant_scales", "scales per head"),
        ("use_non_causal", "non-causal"),
        ("use_rswa", "R-SWA"),
    ],
)
def test_attention_that_no_device_computes_is_refused(feature: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        check_attention(None, layer(**{feature: True}))


def test_a_foreign_attention_backend_is_refused_with_all_else() -> None:
    with pytest.raises(ConfigurationError) as error:
        check_attention(AttentionBackendEnum.FLASH_ATTN, layer(has_sink=True))
    assert "attention sinks" in str(error.value)
    assert "'FLASH_ATTN' doesn't run on this platform" in str(error.value)


@pytest.mark.parametrize("extra", [{"alibi_slopes": [0.5]}, {"sinks": [1.0]}], ids=str)
def test_a_layer_with_an_unknown_feature_is_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"attention uses {next(iter(extra))}"):
        NPUAttentionImpl(4, 64, 0.125, 2, **extra)


def test_requests_with_images_are_refused() -> None:
    with pytest.raises(ValueError, match="Send text only"):
        check_request({"type": "multimodal"}, None)


def test_requests_with_text_pass() -> None:
    check_request({"type": "token", "prompt_token_ids": [1]}, None)


def test_vllm_does_not_warn_of_our_scheduler(caplog: pytest.LogCaptureFixture) -> None:
    """But of a user's own, which stays."""
    quiet_about_own_scheduler()
    config = VllmConfig()
    logger = logging.getLogger("vllm.config.scheduler")
    logger.addHandler(caplog.handler)
    try:
        use_own_scheduler(config)
        assert config.scheduler_config.scheduler_cls == SCHEDULER
        logger.warning("Using custom scheduler class %s.", SCHEDULER)
        config.scheduler_config.scheduler_cls = "theirs.Scheduler"
        use_own_scheduler(config)
        assert config.scheduler_config.scheduler_cls == "theirs.Scheduler"
        logger.warning("Using custom scheduler class %s.", "theirs.Scheduler")
    finally:
        logger.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"Using custom scheduler class theirs.Scheduler."}

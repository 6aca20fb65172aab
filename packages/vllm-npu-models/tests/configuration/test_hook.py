"""What the hook does to vLLM's configuration, and what it says about it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_npu_models.configuration.hook import SessionModelConfig
from vllm_npu_models.names import CONNECTOR, SCHEDULER
from vllm_npu_runtime.artifact.names import LOAD_FORMAT
from vllm_npu_runtime.errors import ConfigurationError

MODEL = {
    "architectures": ["NPULlamaForCausalLM"],
    "dtype": torch.float32,
    "npu_prefill_chunk_size": 64,
    "max_batch_size": 4,
    "npu_block_size": 32,
    "npu_max_model_len": 512,
}


def configuration(extra: dict[str, Any] | None = None, **model: Any) -> Any:
    """As vLLM has it when it calls the hook: its defaults, but for what is given."""
    hf_config = SimpleNamespace(**{**MODEL, **model})
    return SimpleNamespace(
        model_config=SimpleNamespace(
            hf_config=hf_config,
            hf_text_config=hf_config,
            max_model_len=2048,
            original_max_model_len=None,
            dtype=torch.float32,
            quantization=None,
            enable_sleep_mode=False,
            runner_type="generate",
            logits_processors=None,
        ),
        scheduler_config=SimpleNamespace(
            max_num_batched_tokens=2048,
            max_num_seqs=256,
            max_num_scheduled_tokens=None,
            long_prefill_token_threshold=0,
            enable_chunked_prefill=False,
            scheduler_cls=None,
        ),
        cache_config=SimpleNamespace(
            block_size=16,
            user_specified_block_size=False,
            enable_prefix_caching=True,
            num_gpu_blocks_override=None,
            kv_offloading_size=None,
            cache_dtype="auto",
        ),
        load_config=SimpleNamespace(load_format="auto", model_loader_extra_config=extra or {}),
        parallel_config=SimpleNamespace(
            tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1
        ),
        lora_config=None,
        speculative_config=None,
        kv_transfer_config=None,
        additional_config={},
    )


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="vllm.npu")
    return caplog


class TestScheduler:
    def test_it_is_set_to_what_was_compiled(self) -> None:
        config = configuration()
        SessionModelConfig.verify_and_update_config(config)
        scheduler = config.scheduler_config
        assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (4, 64)
        assert scheduler.enable_chunked_prefill is True
        assert scheduler.scheduler_cls == SCHEDULER

    def test_every_change_is_one_line(self, said: pytest.LogCaptureFixture) -> None:
        SessionModelConfig.verify_and_update_config(configuration())
        assert said.messages == [
            "max_num_seqs: from 256 to 4, as the model was compiled for 4 requests at once.",
            "max_num_batched_tokens: from 2048 to 64, as config.json says 64.",
            "enable_chunked_prefill: from False to True, as prompts are read in compiled chunks.",
            "block_size: from 16 to 32, as npu_block_size in config.json.",
        ]

    def test_fewer_slots_than_tokens_of_a_chunk_cap_a_request_beside_others(self) -> None:
        config = configuration(npu_prefill_chunk_size=2, max_batch_size=6)
        SessionModelConfig.verify_and_update_config(config)
        scheduler = config.scheduler_config
        assert scheduler.max_num_batched_tokens == 6
        assert scheduler.long_prefill_token_threshold == 2


class TestKV:
    def test_there_is_a_block_for_each_slot_and_one_more(self) -> None:
        config = configuration({"max_batch_size": 3})
        SessionModelConfig.verify_and_update_config(config)
        assert config.cache_config.num_gpu_blocks_override == 4

    def test_block_size_is_the_models_unless_the_user_sets_it(self) -> None:
        config = configuration()
        config.cache_config.user_specified_block_size = True
        SessionModelConfig.verify_and_update_config(config)
        assert config.cache_config.block_size == 16
        settings = config.kv_transfer_config.kv_connector_extra_config
        assert settings["block_size"] == 16

    @pytest.mark.parametrize("enabled", [True, False])
    def test_prefixes_are_the_connectors_matter(self, enabled: bool) -> None:
        config = configuration({"prefix_cache_max_entries": 3})
        config.cache_config.enable_prefix_caching = enabled
        SessionModelConfig.verify_and_update_config(config)
        transfer = config.kv_transfer_config
        assert transfer.kv_connector == CONNECTOR
        assert transfer.kv_connector_extra_config["enabled"] is enabled
        assert transfer.kv_connector_extra_config["prefix_cache_max_entries"] == 3
        assert config.cache_config.enable_prefix_caching is False

    def test_no_weights_are_read(self) -> None:
        config = configuration()
        SessionModelConfig.verify_and_update_config(config)
        assert config.load_config.load_format == LOAD_FORMAT


class TestLength:
    def test_it_is_at_most_what_was_compiled(self, said: pytest.LogCaptureFixture) -> None:
        model = configuration().model_config
        SessionModelConfig.verify_and_update_model_config(model)
        assert model.max_model_len == 512
        assert said.messages == [
            "max_model_len: from 2048 to 512, as the model was compiled for it."
        ]

    def test_a_shorter_one_stays(self) -> None:
        model = configuration().model_config
        model.max_model_len = model.original_max_model_len = 100
        SessionModelConfig.verify_and_update_model_config(model)
        assert model.max_model_len == 100

    def test_asking_for_more_is_refused(self) -> None:
        model = configuration().model_config
        model.original_max_model_len = 2048
        with pytest.raises(ConfigurationError, match=r"--max-model-len 2048: .* for 512 tokens"):
            SessionModelConfig.verify_and_update_model_config(model)


def test_mobilints_models_get_a_check_of_requests() -> None:
    config = configuration(architectures=["MobilintLlamaForCausalLM"])
    SessionModelConfig.verify_and_update_config(config)
    assert config.model_config.logits_processors == ["vllm_npu_models.requests:LastTokenOnly"]

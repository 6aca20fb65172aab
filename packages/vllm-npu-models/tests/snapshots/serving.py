"""vLLM's own scheduler over slots, with the connector's both sides and a model in miniature.

The next token depends on every token that the slot holds, so that wrong keys and values give other
tokens.
"""

from __future__ import annotations

import json
import pickle
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    KVTransferConfig,
    LoadConfig,
    ModelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.sampling_params import SamplingParams
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec, MambaSpec
from vllm.v1.outputs import DraftTokenIds, KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

import vllm_npu_models
from vllm_npu_models.names import CONNECTOR
from vllm_npu_models.slots import LAYER, blocks_for, slot_of_block
from vllm_npu_models.snapshots.connector import NPUSessionConnector
from vllm_npu_models.snapshots.scheduling import session_scheduler
from vllm_npu_runtime.artifact.names import LOAD_FORMAT

from .fakes import BLOCK, TokenSession

LENGTH = 256
CHUNK = 32


def next_token(held: list[int]) -> int:
    """What the model makes of the tokens so far."""
    return (sum(place * token for place, token in enumerate(held, 1)) * 31 + len(held)) % 991


def expected(prompt: list[int], count: int) -> list[int]:
    """What it generates, by itself."""
    held = list(prompt)
    for _ in range(count):
        held.append(next_token(held))
    return held[len(prompt) :]


class Serving:
    """Requests through vLLM's scheduler, a step at a time.

    Attributes:
        tokens: generated, by request.
        reasons: why requests ended, by request.
        computed: prompt tokens that went through the model, by request.
        failing: slots whose rows fail.
        stats: of every step, as they go to the process with the metrics.
        session: the slots.
    """

    def __init__(
        self,
        directory: Path,
        session: TokenSession,
        *,
        ahead: bool = False,
        ours: bool = True,
        drafts: int = 0,
        **changes: Any,
    ) -> None:
        self.session = session
        self.tokens: dict[str, list[int]] = {}
        self.reasons: dict[str, str] = {}
        self.computed: dict[str, int] = {}
        self.failing: set[int] = set()
        self.stats: list[Any] = []
        self._drafts = drafts
        self._histories: dict[str, list[int]] = {}
        self._blocks: dict[str, int] = {}
        self._ahead = ahead
        self._queue: deque[tuple[Any, ModelRunnerOutput]] = deque()
        config = _config(directory, len(session.held), ahead, changes)
        layer = SimpleNamespace(session=session, failed=set())
        config.compilation_config.static_forward_context[LAYER] = layer
        self._layer = layer
        caches = _caches(len(session.held))
        self.worker = NPUSessionConnector(config, KVConnectorRole.WORKER, caches)
        make = session_scheduler if ours else config.scheduler_config.get_scheduler_cls()
        self.scheduler: Any = make(
            vllm_config=config,
            kv_cache_config=caches,
            structured_output_manager=StructuredOutputManager(config),
            block_size=LENGTH,
            log_stats=not drafts,  # Without a configured number of drafts vLLM can't count them.
        )
        facts = pickle.loads(pickle.dumps(self.worker.get_handshake_metadata()))
        self.connector = self.scheduler.get_kv_connector()
        self.connector.set_xfer_handshake_metadata_pp_aware({(0, 0): facts})

    def submit(self, name: str, prompt: list[int], max_tokens: int = 4, **more: Any) -> Request:
        """A new request."""
        sampling = SamplingParams(max_tokens=max_tokens, **more.pop("sampling", {}))
        sampling.update_from_generation_config({}, eos_token_id=None)
        request = Request(name, prompt, sampling, None, **more)
        self.tokens[name], self.computed[name] = [], 0
        self.scheduler.add_request(request)
        return request

    def serve(self, name: str, prompt: list[int], max_tokens: int = 4, **more: Any) -> list[int]:
        """A request alone, to its end."""
        self.submit(name, prompt, max_tokens, **more)
        self.drain()
        return self.tokens[name]

    def drain(self) -> None:
        """Step until nothing is left to do."""
        for _ in range(1000):
            if not (self.scheduler.has_requests() or self._queue):
                return
            self.step()
        raise AssertionError("it never ends")

    def step(self) -> None:
        """Schedule and run a step, and take in the output of one: of this one, or, ahead, of the
        one before it."""
        if self.scheduler.has_requests():
            scheduled = self.scheduler.schedule()
            self._queue.append((scheduled, self._run(scheduled)))
            if self._ahead and len(self._queue) < 2 and scheduled.total_num_scheduled_tokens:
                return
        if not self._queue:
            return
        scheduled, output = self._queue.popleft()
        for outputs in self.scheduler.update_from_output(scheduled, output).values():
            if outputs.scheduler_stats is not None:
                self.stats.append(outputs.scheduler_stats)
            for each in outputs.outputs:
                self.tokens[each.request_id] += each.new_token_ids
                if each.finish_reason is not None:
                    self.reasons[each.request_id] = str(each.finish_reason)
        if self._drafts:
            self._draft()

    def _run(self, scheduled: Any) -> ModelRunnerOutput:
        metadata = pickle.loads(pickle.dumps(scheduled.kv_connector_metadata))
        self._update(scheduled)
        self.worker.bind_connector_metadata(metadata)
        sampled = self._forward(scheduled)
        self.worker.start_load_kv(None)
        found = KVConnectorOutput(
            invalid_block_ids=self.worker.get_block_ids_with_load_errors(),
            kv_connector_stats=self.worker.get_kv_connector_stats(),
            kv_connector_worker_meta=pickle.loads(
                pickle.dumps(self.worker.build_connector_worker_meta())
            ),
        )
        self.worker.clear_connector_metadata()
        names = list(sampled)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=[sampled[name] for name in names],
            kv_connector_output=found,
        )

    def _update(self, scheduled: Any) -> None:
        self._pasts = {}
        for new in scheduled.scheduled_new_reqs:
            self._histories[new.req_id] = list(new.prompt_token_ids or [0] * len(new.prompt_embeds))
            self._blocks[new.req_id] = new.block_ids[0][0]
            self._pasts[new.req_id] = new.num_computed_tokens
        cached = scheduled.scheduled_cached_reqs
        for index, name in enumerate(cached.req_ids):
            self._pasts[name] = cached.num_computed_tokens[index]
            if name in cached.resumed_req_ids:
                self._histories[name] = list(cached.all_token_ids[name])
                self._blocks[name] = cached.new_block_ids[index][0][0]

    def _forward(self, scheduled: Any) -> dict[str, list[int]]:
        sampled: dict[str, list[int]] = {}
        for name, count in scheduled.num_scheduled_tokens.items():
            history, past = self._histories[name], self._pasts[name]
            slot = slot_of_block(self._blocks[name])
            drafts = scheduled.scheduled_spec_decode_tokens.get(name, [])
            given = (history + list(drafts))[past : past + count]
            assert len(given) == count
            self.computed[name] += count
            if slot in self._layer.failed or slot in self.failing:
                self._layer.failed.add(slot)
                self.session.held[slot] = []
                sampled[name] = [0] if past + count >= len(history) else []
                history += sampled[name]
                continue
            self.session.run(slot, past, given)
            assert self.session.held[slot][: len(history)] == history[: past + count]
            sampled[name] = self._sample(slot, history, list(drafts), past + count)
            history += sampled[name]
        return sampled

    def _sample(self, slot: int, history: list[int], drafts: list[int], end: int) -> list[int]:
        if end < len(history):
            return []
        sampled: list[int] = []
        for index in range(len(drafts) + 1):
            sampled.append(next_token(self.session.held[slot][: len(history) + index]))
            if drafts[index : index + 1] != sampled[-1:]:
                break
        return sampled

    def _draft(self) -> None:
        """Of every two drafts the first is right, and the second wrong."""
        drafts = {
            request.request_id: [next_token(self._histories[request.request_id]), 1000]
            for request in self.scheduler.running
            if request.num_output_tokens
        }
        self.scheduler.update_draft_token_ids(DraftTokenIds(list(drafts), list(drafts.values())))


def _config(directory: Path, slots: int, ahead: bool, changes: dict[str, Any]) -> VllmConfig:
    vllm_npu_models.register()
    llama = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 1024,
        "max_position_embeddings": LENGTH,
    }
    (directory / "config.json").write_text(json.dumps(llama))
    extra = {
        "enabled": True,
        "block_size": BLOCK,
        "prefix_cache_max_entries": 16,
        "prefix_cache_max_host_mib": 1,
        "prefix_cache_min_hit_tokens": BLOCK,
        # What tiny slots cost to copy says nothing.
        "prefix_cache_load_margin": 1e9,
        **changes,
    }
    cache = CacheConfig(enable_prefix_caching=False)
    cache.num_gpu_blocks = blocks_for(slots)
    return VllmConfig(
        model_config=ModelConfig(
            model=str(directory), skip_tokenizer_init=True, max_model_len=LENGTH, dtype="float32"
        ),
        scheduler_config=SchedulerConfig(
            max_num_seqs=slots,
            max_num_batched_tokens=CHUNK,
            max_model_len=LENGTH,
            is_encoder_decoder=False,
            enable_chunked_prefill=True,
            async_scheduling=ahead,
        ),
        cache_config=cache,
        # As the hook sets it, for platforms that ask what kind of model this is.
        load_config=LoadConfig(load_format=LOAD_FORMAT),
        kv_transfer_config=KVTransferConfig(
            kv_connector=CONNECTOR,
            kv_role="kv_producer",
            kv_load_failure_policy="fail",
            kv_connector_extra_config=extra,
        ),
        device_config=DeviceConfig(device="cpu"),
    )


def _caches(slots: int) -> KVCacheConfig:
    state = MambaSpec(
        block_size=LENGTH,
        shapes=((1,),),
        dtypes=(torch.uint8,),
        mamba_type=MambaAttentionBackendEnum.CUSTOM,
    )
    return KVCacheConfig(blocks_for(slots), [], [KVCacheGroupSpec([LAYER], state)])

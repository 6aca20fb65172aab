"""The worker: one process that owns a device."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from vllm.platforms import current_platform
from vllm.utils.torch_utils import set_random_seed
from vllm.v1.worker.gpu_worker import Worker, init_worker_distributed_environment
from vllm.v1.worker.worker_base import CompilationTimes

from vllm_npu_platform.graph.warm_up import warm_up
from vllm_npu_platform.memory import kv_cache_bytes
from vllm_npu_platform.processes.lifetime import end_with_parent, take_away_at_end
from vllm_npu_platform.runner import NPUModelRunner
from vllm_npu_platform.sessions import in_session
from vllm_npu_platform.start_up import start_up_line
from vllm_npu_platform.stats import counters as names
from vllm_npu_platform.stats.board import BoardWriter, board_path
from vllm_npu_platform.stats.counters import Counters
from vllm_npu_platform.stats.start_times import KV_CACHE, LOAD, WARM_UP, WEIGHTS
from vllm_npu_platform.target import Target

_logger = logging.getLogger("vllm.npu")


class NPUWorker(Worker):
    """vLLM's worker, less what it does to a GPU."""

    model_runner: NPUModelRunner

    def init_device(self) -> None:
        """Find the device, and make the runner for it."""
        end_with_parent()
        self.device = torch.device("cpu")
        self.target = Target.of(self.vllm_config)
        self.counters = Counters()
        self.parallel_config.disable_custom_all_reduce = True
        # vLLM's distributed set-up reads it, as a launcher would have set it.
        os.environ.setdefault("LOCAL_WORLD_SIZE", "1")
        init_worker_distributed_environment(
            self.vllm_config,
            self.rank,
            self.distributed_init_method,
            self.local_rank,
            current_platform.dist_backend,
        )
        set_random_seed(self.model_config.seed)
        self._init_workspace_and_model_runner()

    def _make_model_runner(self) -> NPUModelRunner:
        return NPUModelRunner(self.vllm_config, self.device, self.target, self.counters)

    def _maybe_get_memory_pool_context(self, tag: str) -> AbstractContextManager[None]:
        return nullcontext()

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the weights, or open the session in their place."""
        with self.counters.start.part(LOAD if in_session(self.vllm_config) else WEIGHTS):
            super().load_model(*args, **kwargs)

    def initialize_from_config(self, *args: Any, **kwargs: Any) -> None:
        """Allocate the KV cache."""
        with self.counters.start.part(KV_CACHE):
            super().initialize_from_config(*args, **kwargs)

    def determine_available_memory(self) -> int:
        """Bytes for the KV cache; see `vllm_npu_platform.memory`. With a session: for a byte of
        each of its slots."""
        if in_session(self.vllm_config):
            specs = self.model_runner.get_kv_cache_spec().values()
            return self.cache_config.num_gpu_blocks_override * sum(s.page_size_bytes for s in specs)
        device = Target.of(self.vllm_config).device.info  # Memory as it is with weights loaded.
        return kv_cache_bytes(
            self.cache_config,
            device,
            self._weight_bytes(),
            self._activation_bytes(),
            self._full_kv_bytes(),
        )

    def compile_or_warm_up_model(self) -> CompilationTimes:
        """Make the graphs, and say what runs where."""
        executors = self.model_runner.build_executors()
        shapes = [f"{each.prefix}{shape}" for each in executors for shape in each.shapes]
        declared = self.counters.declare(shapes)
        seconds = 0.0
        if self.target.settings.warm_up:
            with torch.inference_mode(), self.counters.start.part(WARM_UP):
                seconds = warm_up(executors, self.model_runner.logits)
        self.counters.started()
        self._show_counters(declared)
        set_random_seed(self.model_config.seed)
        _logger.info(start_up_line(self, executors, seconds))
        _logger.info(self.counters.start.line())
        return CompilationTimes(language_model=seconds, encoder=0.0)

    def _show_counters(self, names: Sequence[str]) -> None:
        """From here on the API server sees them; a start that is killed leaves no board."""
        try:
            path = board_path(self.vllm_config)
            take_away_at_end(path)
            self.counters.show(BoardWriter(path, names))
        except OSError as error:
            _logger.warning("There will be no vllm_npu metrics: %s", error)

    @torch.inference_mode()
    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """One step, up to the logits."""
        if not scheduler_output.total_num_scheduled_tokens:
            return super().execute_model(scheduler_output, *args, **kwargs)
        self.counters.add(names.STEPS)
        with _HostTime(self.counters):
            return super().execute_model(scheduler_output, *args, **kwargs)

    @torch.inference_mode()
    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """The rest of the step: sampling, and drafting if there is speculation."""
        with _HostTime(self.counters):
            return super().sample_tokens(*args, **kwargs)

    def shutdown(self) -> None:
        """Free the device."""
        super().shutdown()
        if (counters := getattr(self, "counters", None)) is not None:
            counters.close()

    def _weight_bytes(self) -> int:
        models = [self.model_runner.model]
        if (draft := self.model_runner.get_draft_model()) is not None:
            models.append(draft)
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for model in models
            for tensor in (*model.parameters(), *model.buffers())
        }
        return sum(storages.values())

    def _full_kv_bytes(self) -> int:
        requests = self.scheduler_config.max_num_seqs
        specs = self.model_runner.get_kv_cache_spec().values()
        return requests * sum(spec.max_memory_usage_bytes(self.vllm_config) for spec in specs)

    def _activation_bytes(self) -> int:
        """What a step of the largest bucket holds at once, as an estimate.

        Per token: a few rows of hidden states, one of the feed-forward layer, and one of
        logits, in float32 at most.
        """
        config = self.model_config
        hidden = config.get_hidden_size()
        feed_forward = getattr(config.hf_text_config, "intermediate_size", None) or 4 * hidden
        tokens = self.scheduler_config.max_num_batched_tokens
        logits = self.scheduler_config.max_num_seqs * config.get_vocab_size()
        return 4 * (tokens * (8 * hidden + 3 * feed_forward) + 3 * logits)


class _HostTime:
    """Counts the time of a block less what passed on the device meanwhile."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def __enter__(self) -> None:
        self._device = self._counters.values.get(names.DEVICE_SECONDS, 0.0)
        self._begin = time.perf_counter()

    def __exit__(self, *_error: object) -> None:
        passed = time.perf_counter() - self._begin
        device = self._counters.values.get(names.DEVICE_SECONDS, 0.0) - self._device
        self._counters.add(names.HOST_SECONDS, max(passed - device, 0.0))

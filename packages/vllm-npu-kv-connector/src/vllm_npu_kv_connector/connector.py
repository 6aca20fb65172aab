"""The connector: vLLM's offloading connector on NPUs, with measured costs deciding on loads."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1 import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.config import build_offloading_config
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import (
    OffloadingConnectorStats,
)
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector

from vllm_npu_kv_connector.checks import checked
from vllm_npu_kv_connector.disaggregation.arrivals import Arrivals, answer
from vllm_npu_kv_connector.identity import identity_of
from vllm_npu_kv_connector.names import RECOMPUTED, SKIPPED_TIER
from vllm_npu_kv_connector.offloading.transport import StepMetadata, StepReport
from vllm_npu_kv_connector.parts import split_caches, split_config
from vllm_npu_kv_connector.policy.measurements import Measurements
from vllm_npu_kv_connector.policy.policy import LoadPolicy

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
        KVConnectorPromMetrics,
        KVConnectorStats,
    )
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

    from vllm_npu_kv_connector.options import ConnectorOptions


_logger = logging.getLogger("vllm.npu")


class NPUConnector(OffloadingConnector):
    """KV goes to host memory and to the tiers behind it as it is computed, and comes back.

    All transfers happen between steps: nothing of this is traced into a graph.

    Attributes:
        transfers_outside_graphs: tells the platform that no layer's hooks are needed.

    Raises:
        ConfigurationError: options that are unknown or can't be honoured, a line for each.
    """

    transfers_outside_graphs = True

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        options, identity = checked(vllm_config), ""
        if role == KVConnectorRole.SCHEDULER and options.secondary_tiers:
            plain = build_offloading_config(_in_vllms_terms(vllm_config, options), kv_cache_config)
            tokens = plain.groups[0].tokens_per_block * plain.cache.blocks_per_chunk
            identity = identity_of(vllm_config, kv_cache_config, tokens)
        if role == KVConnectorRole.SCHEDULER and "cpu_bytes_to_use" not in options.model_fields_set:
            _logger.info(
                "NPUConnector keeps KV in %s of host memory, which suits this host; "
                "cpu_bytes_to_use in kv_connector_extra_config says otherwise.",
                options.cpu_bytes_to_use.human_readable(),
            )
        normalized = _in_vllms_terms(vllm_config, options, identity)
        self._parts = split_config(kv_cache_config, vllm_config)
        in_parts = role == KVConnectorRole.WORKER
        super().__init__(normalized, role, self._parts.config if in_parts else kv_cache_config)
        if role == KVConnectorRole.SCHEDULER:
            self._policy = LoadPolicy(options.load, options.load_margin)
            self._measurements = Measurements(
                self._policy.costs, build_offloading_config(normalized, kv_cache_config)
            )
            # Labelled as vLLM's own metrics label them.
            self._tiers = {
                f"{index}:{tier.tier_type}": tier
                for index, tier in enumerate(self.scheduler.manager.secondary_tiers, 1)
            }
            for label, tier in self._tiers.items():
                tier.metrics_label = label
            self._refusals = OffloadingConnectorStats()
            groups = self.scheduler.config.kv_group_configs
            self._arrivals = Arrivals(tuple(self._tiers.values()), groups, options.arrival_timeout)
        else:
            self._pass_began = 0.0
            self._prefill = (0, 0.0)

    @classmethod
    def check(cls, vllm_config: VllmConfig) -> None:
        """Check the options, before anything is started.

        Raises:
            ConfigurationError: a line for each problem.
        """
        checked(vllm_config)

    # In the scheduler's process.

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """How many tokens of the prompt can be loaded, where that is worth it; None: ask later."""
        if self._arrivals.awaits(request, num_computed_tokens):
            return None, False
        decision = self._policy.decide(self._tiers)
        for name, tier in self._tiers.items():
            tier.loads = name in decision.tiers
        if not decision.host:
            self._refusals.increase_counter(RECOMPUTED)
            with _not_reading(request):
                return super().get_num_new_matched_tokens(request, num_computed_tokens)
        matched = super().get_num_new_matched_tokens(request, num_computed_tokens)
        if matched[0] is not None:  # else vLLM asks again
            for name in self._tiers.keys() - decision.tiers:
                self._refusals.increase_counter(SKIPPED_TIER, 1, (name,))
        return matched

    def request_finished(
        self, request: Request, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """As of vLLM; a proxy that asked to prefill is told that this was done."""
        return self._finished(request, super().request_finished(request, block_ids))

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The same, of a model with several groups of layers."""
        return self._finished(request, super().request_finished_all_groups(request, block_ids))

    def _finished(
        self, request: Request, result: tuple[bool, dict[str, Any] | None]
    ) -> tuple[bool, dict[str, Any] | None]:
        self._arrivals.forget(request.request_id)
        delayed, params = result
        return delayed, answer(request.kv_transfer_params) or params

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """The step's transfers, and how many tokens of prompts it computes."""
        meta = super().build_connector_meta(scheduler_output)
        counts = scheduler_output.num_scheduled_tokens.values()
        total = scheduler_output.total_num_scheduled_tokens
        decoding = sum(1 for count in counts if count == 1)
        prefill = total if decoding * 2 < total else 0
        return StepMetadata(**vars(meta), prefill_tokens=prefill)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """Take in what the worker reports."""
        self._measurements.take_report(connector_output.kv_connector_worker_meta)
        super().update_connector_output(connector_output)

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        """vLLM's statistics, and the load policy's."""
        stats = super().get_kv_connector_stats()
        if self.connector_scheduler is None:
            return stats
        if stats is not None:
            self._measurements.take_stats(stats)
        refusals, self._refusals = self._refusals, OffloadingConnectorStats()
        return refusals if stats is None else stats.aggregate(refusals)

    # In the worker's process.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Take the device's caches, each part of a block for itself."""
        super().register_kv_caches(split_caches(kv_caches, self._parts))

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """Before the model's pass."""
        super().bind_connector_metadata(connector_metadata)
        self._pass_began = time.perf_counter()

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        """After the model's pass, as all loads are asynchronous."""
        seconds = time.perf_counter() - self._pass_began
        metadata = self._get_connector_metadata()
        tokens = metadata.prefill_tokens if isinstance(metadata, StepMetadata) else 0
        self._prefill = (tokens, seconds)
        super().start_load_kv(forward_context, **kwargs)

    def build_connector_worker_meta(self) -> StepReport | None:
        """Transfers that ended, and what a prefill step took."""
        meta = super().build_connector_worker_meta()
        tokens, seconds = self._prefill
        self._prefill = (0, 0.0)
        if meta is None and not tokens:
            return None
        return StepReport(
            **(vars(meta) if meta is not None else {}),
            prefill_tokens=tokens,
            prefill_seconds=seconds,
        )

    # In the process of the API server.

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: VllmConfig, *args: Any, **kwargs: Any
    ) -> KVConnectorPromMetrics:
        """vLLM's metrics, of our spec and tiers."""
        normalized = _in_vllms_terms(vllm_config, checked(vllm_config))
        return super().build_prom_metrics(normalized, *args, **kwargs)


def _in_vllms_terms(
    config: VllmConfig, options: ConnectorOptions, identity: str = ""
) -> VllmConfig:
    """A copy of the configuration, with what vLLM's connector is to read."""
    other = copy(config)
    other.kv_transfer_config = replace(
        config.kv_transfer_config, kv_connector_extra_config=options.for_vllm(identity)
    )
    return other


@contextmanager
def _not_reading(request: Request) -> Iterator[None]:
    """As if the request had asked not to read a prefix cache; its KV is stored all the same."""
    before, request.skip_reading_prefix_cache = request.skip_reading_prefix_cache, True
    try:
        yield
    finally:
        request.skip_reading_prefix_cache = before

"""The KV connector that vLLM sees: finds prefixes in the scheduler's process, loads them in the
worker's, and reports requests whose slots failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from vllm_npu_models.slots import block_of_slot, session_of, slot_state
from vllm_npu_models.snapshots.executor import Executor
from vllm_npu_models.snapshots.messages import Handshake, StepMetadata, WorkerReport
from vllm_npu_models.snapshots.metrics import SnapshotPromMetrics, SnapshotStats
from vllm_npu_models.snapshots.scheduler_side import SchedulerSide
from vllm_npu_models.snapshots.settings import SessionFacts, SnapshotSettings

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
        KVConnectorPromMetrics,
        KVConnectorStats,
    )
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


class NPUSessionConnector(KVConnectorBase_V1, SupportsHMA):
    """Prefix reuse in a session's slots; both roles."""

    _cache_hit_source = CacheHitSource.HOST

    def __init__(
        self,
        vllm_config: VllmConfig,
        role: KVConnectorRole,
        kv_cache_config: KVCacheConfig,
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        extra = self._kv_transfer_config.kv_connector_extra_config
        self._settings = SnapshotSettings.of(extra)
        self._scheduler_side = SchedulerSide(self._settings)
        self._opened: Executor | None = None

    @property
    def requires_kv_delivery(self) -> bool:
        """Nothing is handed on to others: what isn't kept is computed anew."""
        return False

    # Worker's side

    @property
    def _executor(self) -> Executor:
        """Made when it is first needed: the session is open by then."""
        if self._opened is None:
            config = self._vllm_config
            limit = self._settings.max_host_bytes
            self._opened = Executor(session_of(config), slot_state(config), limit)
        return self._opened

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        """What the scheduler's side must know of the session."""
        return Handshake(SessionFacts.of(session_of(self._vllm_config)))

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """Do what the step needs done before it.

        Here, as vLLM may call `start_load_kv` after the forward pass.
        """
        super().bind_connector_metadata(connector_metadata)
        assert isinstance(connector_metadata, StepMetadata)
        step = connector_metadata
        self._executor.begin(step.operations, step.rows, step.tokens, step.prefill_tokens)

    def start_load_kv(self, forward_context: Any, **_: Any) -> None:
        """Done already."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Done already."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **_: Any) -> None:
        """The session keeps its own."""

    def wait_for_save(self) -> None:
        """There is nothing to wait for."""

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks of the requests in this step whose slots failed, in loading or in computing."""
        return {block_of_slot(slot) for slot in self._executor.end()}

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        """What the scheduler's side is to learn of this step."""
        report = self._executor.take_report()
        return None if report is None else WorkerReport(report)

    def shutdown(self) -> None:
        """Free the host's memory."""
        if self._opened is not None:
            self._opened.close()

    # Scheduler's side

    def set_xfer_handshake_metadata(
        self, metadata: dict[int, KVConnectorHandshakeMetadata]
    ) -> None:
        """Learn what the session can do."""
        for each in metadata.values():
            assert isinstance(each, Handshake)
            self._scheduler_side.learn(each.facts)

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        """Learn where vLLM's free blocks are."""
        self._scheduler_side.bind(gpu_block_pool)

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """How many tokens of a request a kept prefix has."""
        return self._scheduler_side.match(request, num_computed_tokens), False

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """A request got its slot."""
        (block_ids,) = blocks.get_block_ids()
        self._scheduler_side.admit(request, block_ids, num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """What the worker is to do before this step."""
        return self._scheduler_side.step(scheduler_output)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """Learn what came of a step."""
        found = connector_output.kv_connector_worker_meta
        if isinstance(found, WorkerReport):
            self._scheduler_side.take(found.report)

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """A request is done: its slot may become an entry, and is free for others meanwhile."""
        self._scheduler_side.finish(request, has_slot=any(block_ids))
        return False, None

    def has_pending_push_work(self) -> bool:
        """Whether the worker is to free something, though there may be no more requests."""
        return self._scheduler_side.pending

    def reset_cache(self) -> bool:
        """Keep nothing of what there is."""
        self._scheduler_side.clear()
        return True

    # Metrics

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        """Counts, from the scheduler's side; the worker's has none."""
        if self.role is KVConnectorRole.WORKER:
            return None
        return self._scheduler_side.stats()

    @classmethod
    def build_kv_connector_stats(
        cls, data: dict[str, Any] | None = None
    ) -> KVConnectorStats | None:
        """Counts as they came from another process."""
        return SnapshotStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: VllmConfig,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> KVConnectorPromMetrics | None:
        """Metrics of the process that serves them."""
        return SnapshotPromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

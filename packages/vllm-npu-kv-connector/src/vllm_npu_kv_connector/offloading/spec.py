"""vLLM's tiered offloading, with the NPU's side of the copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.kv_offload.base import OffloadingCounterMetadata
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from vllm_npu_kv_connector.names import IDENTITY, RECOMPUTED, SKIPPED_TIER
from vllm_npu_kv_connector.offloading.region import WorkerRegion, forget
from vllm_npu_kv_connector.offloading.worker import NPUOffloadingWorker
from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import (
        CanonicalKVCaches,
        OffloadingManager,
        OffloadingMetricMetadata,
    )
    from vllm.v1.kv_offload.config import OffloadingConfig


class NPUOffloadingSpec(TieringOffloadingSpec):
    """Host memory and the tiers behind it are vLLM's; the copies to the device are ours.

    Attributes:
        identity: hexadecimal; blocks of another one are never read. Empty in a worker.

    Raises:
        ConfigurationError: host memory for less than one chunk.
    """

    def __init__(self, config: OffloadingConfig) -> None:
        super().__init__(config)
        self._worker: NPUOffloadingWorker | None = None
        self.identity: str = config.extra_config.get(IDENTITY, "")
        if self.num_chunks == 0:
            raise ConfigurationError(
                f"cpu_bytes_to_use {self.extra_config['cpu_bytes_to_use']}: one chunk of "
                f"{self.blocks_per_chunk * self.tokens_per_block[0]} tokens takes "
                f"{self.kv_bytes_per_chunk} bytes of this model's KV. Give at least that much."
            )

    @classmethod
    def build_metric_definitions(
        cls, extra_config: dict[str, Any]
    ) -> dict[str, OffloadingMetricMetadata]:
        """vLLM's own, and how often the load policy preferred to compute."""
        return super().build_metric_definitions(extra_config) | {
            RECOMPUTED: OffloadingCounterMetadata(
                documentation="Requests computed as loading was measured slower, or is off.",
            ),
            SKIPPED_TIER: OffloadingCounterMetadata(
                documentation="Requests that skipped a tier measured slower than computing.",
                labelnames=("tier",),
            ),
        }

    def get_manager(self) -> OffloadingManager:
        """For the scheduler: which blocks lie where. Workers have the host tier's memory by now."""
        try:
            return super().get_manager()
        finally:
            forget(self._engine_id)

    def get_worker(self, kv_caches: CanonicalKVCaches) -> NPUOffloadingWorker:
        """For the worker: copies between the device and host memory.

        Raises:
            ConfigurationError: the cache lies in memory that the host doesn't see.
        """
        if self._worker is None:
            places = {str(each.tensor.device) for each in kv_caches.tensors}
            if places != {"cpu"}:
                raise ConfigurationError(
                    f"NPUConnector copies KV caches that the host sees, and this platform's are on "
                    f"{', '.join(sorted(places))}. Use vLLM's OffloadingConnector there."
                )
            region = WorkerRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            self._worker = NPUOffloadingWorker(kv_caches, self.blocks_per_chunk, region)
        return self._worker

"""From vLLM's transfer statistics and our step reports to costs per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.kv_offload.tiering.base import TieringOffloadingMetrics

from vllm_npu_kv_connector.offloading.transport import StepReport
from vllm_npu_kv_connector.policy.costs import Costs

if TYPE_CHECKING:
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats
    from vllm.v1.kv_offload.config import OffloadingConfig

_DATA = "data"


class Measurements:
    """Takes in what was measured, wherever it was.

    Args:
        costs: to be kept up to date.
        config: tells how many bytes a token takes.
    """

    def __init__(self, costs: Costs, config: OffloadingConfig) -> None:
        tokens = max(group.tokens_per_block for group in config.groups)
        self._costs = costs
        self._bytes_per_token = config.worker_kv_bytes_per_block / tokens
        self._workers = config.parallel.world_size

    def take_report(self, report: object) -> None:
        """Of a step's worker: copies to the device, and the model's pass."""
        if not isinstance(report, StepReport):
            return
        load = report.transfer_stats.load
        self._costs.host.add(load.time, load.bytes / self._bytes_per_token)
        self._costs.compute.add(report.prefill_seconds, report.prefill_tokens)

    def take_stats(self, stats: KVConnectorStats) -> None:
        """Of the scheduler's side: reads from tiers to host memory."""
        values = stats.data.get(_DATA, {})
        seconds = values.get(TieringOffloadingMetrics.READ_TIME, {})
        for labels, count in values.get(TieringOffloadingMetrics.READ_BYTES, {}).items():
            tokens = count / self._bytes_per_token / self._workers
            self._costs.tier(labels[0]).add(seconds.get(labels, 0.0), tokens)

"""What tiers count beyond vLLM's own metrics, in vLLM's connector metrics.

Hits, bytes and times of every tier are vLLM's: ``vllm:kv_offload_tiering_*``.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import (
    OffloadingConnectorStats,
)
from vllm.v1.kv_offload.base import (
    OffloadingCounterMetadata,
    OffloadingGaugeMetadata,
    OffloadingMetricMetadata,
)

from vllm_npu_kv_connector.tiers.block_format import Rejection
from vllm_npu_kv_connector.tiers.store import Event, Outage

EVICTED = "vllm:kv_offload_npu_evicted_blocks"
CORRUPT = "vllm:kv_offload_npu_corrupt_blocks"
UNAVAILABLE = "vllm:kv_offload_npu_unavailable"
KEPT_BYTES = "vllm:kv_offload_npu_kept_bytes"

_NAMES = {Event.EVICTED: EVICTED, Event.CORRUPT: CORRUPT, Event.UNAVAILABLE: UNAVAILABLE}


def definitions() -> dict[str, OffloadingMetricMetadata]:
    """The metrics by name, as vLLM's connector takes them."""
    return {
        EVICTED: OffloadingCounterMetadata(
            documentation="Blocks deleted by this engine to keep a tier below its limit.",
            labelnames=("tier",),
        ),
        CORRUPT: OffloadingCounterMetadata(
            documentation="Stored blocks that were rejected and removed, by tier and reason.",
            labelnames=("tier", "reason"),
        ),
        UNAVAILABLE: OffloadingCounterMetadata(
            documentation="Operations on a tier that could not be used, by tier and reason.",
            labelnames=("tier", "reason"),
        ),
        KEPT_BYTES: OffloadingGaugeMetadata(
            documentation="Bytes that a tier takes, for all models and engines that share it.",
            labelnames=("tier",),
        ),
    }


def record(
    stats: OffloadingConnectorStats, tier: str, counts: Mapping[tuple[Event, str], int]
) -> None:
    """Add what a store counted.

    Args:
        stats: what goes to the process that serves metrics.
        tier: label of the tier.
        counts: as of `Tally.take`.
    """
    for (event, reason), count in counts.items():
        # Plain text, as enumerations don't come out of another process as such.
        labels = (tier, str(reason)) if reason else (tier,)
        stats.increase_counter(_NAMES[event], count, labels)


def record_nothing(stats: OffloadingConnectorStats, tier: str) -> None:
    """Make all counters of a tier be there to be seen before anything is counted."""
    zeros: dict[tuple[Event, str], int] = {(Event.EVICTED, ""): 0}
    zeros |= {(Event.CORRUPT, reason): 0 for reason in Rejection}
    zeros |= {(Event.UNAVAILABLE, outage): 0 for outage in Outage}
    record(stats, tier, zeros)

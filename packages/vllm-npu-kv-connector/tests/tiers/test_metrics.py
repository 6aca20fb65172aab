"""What tiers count, at ``/metrics``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import (
    OffloadingConnectorStats,
    OffloadPromMetrics,
)
from vllm.v1.metrics.prometheus import unregister_vllm_metrics

from vllm_npu_kv_connector.tiers.block_format import Rejection
from vllm_npu_kv_connector.tiers.manager import DirectoryTier
from vllm_npu_kv_connector.tiers.store import Outage

from .primary import BLOCK, SPEC, finished, job

LABEL = "1:npu_fs"


@pytest.fixture
def tier(tmp_path: Path):
    rows = np.zeros((4, BLOCK), dtype=np.int8)
    made = DirectoryTier(
        SPEC, memoryview(rows), "npu_fs", root_dir=str(tmp_path / "kv"), max_bytes=2 * 2 * BLOCK
    )
    made.metrics_label = LABEL
    yield made
    made.shutdown()


def _served(model: str) -> OffloadPromMetrics:
    """vLLM's own, as its server makes them for its tiering spec with a tier of ours."""
    tiers = [
        {
            "type": "DirectoryTier",
            "module_path": "vllm_npu_kv_connector.tiers.manager",
        }
    ]
    extra = {"spec_name": "TieringOffloadingSpec", "secondary_tiers": tiers}
    config = SimpleNamespace(kv_transfer_config=SimpleNamespace(kv_connector_extra_config=extra))
    kinds = {kind: kind for kind in (Counter, Gauge, Histogram)}
    return OffloadPromMetrics(
        config,  # type: ignore[arg-type]
        kinds,
        ["model_name"],
        {0: [model]},
    )


def _value(name: str, **labels: str) -> float | None:
    labels |= {"model_name": "model", "tier": LABEL}
    return REGISTRY.get_sample_value(f"vllm:kv_offload_npu_{name}", labels)


@pytest.fixture
def registry():
    """Prometheus takes a name once; those of engines before are taken back, as vLLM does."""
    unregister_vllm_metrics()
    before = set(REGISTRY._collector_to_names)
    yield
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)


def _counted(tier: DirectoryTier) -> OffloadingConnectorStats:
    stats = tier.get_stats()
    assert isinstance(stats, OffloadingConnectorStats)
    return stats


def test_what_tiers_count_is_served(tier: DirectoryTier, tmp_path: Path, registry: None) -> None:
    served = _served("model")

    served.observe(_counted(tier).data)
    assert _value("evicted_blocks_total") == 0
    assert all(_value("corrupt_blocks_total", reason=reason) == 0 for reason in Rejection)
    assert all(_value("unavailable_total", reason=outage) == 0 for outage in Outage)
    tier.submit_store(job(0, {1: 0, 2: 1}, is_promotion=False))
    finished(tier)
    served.observe(_counted(tier).data)
    assert _value("kept_bytes") == 2 * 2 * BLOCK
    tier.submit_store(job(1, {3: 2}, is_promotion=False))
    finished(tier)
    for path in tmp_path.rglob("*.kv"):
        path.write_bytes(b"damaged")
    tier.submit_load(job(2, {3: 2}, is_promotion=True))
    finished(tier)
    served.observe(_counted(tier).data)
    assert _value("evicted_blocks_total") == 1
    assert _value("corrupt_blocks_total", reason="truncated") == 1


def test_a_step_in_which_nothing_happened_reports_nothing(tier: DirectoryTier) -> None:
    _counted(tier)
    assert tier.get_stats() is None


def test_counts_of_several_steps_add_up(tier: DirectoryTier) -> None:
    total = _counted(tier)
    for number in range(4):
        tier.submit_store(job(number, {number: 0}, is_promotion=False))
        finished(tier)
        stats = tier.get_stats()
        if stats is not None:
            total = total.aggregate(stats)
    reduced = total.reduce()
    assert reduced[f"vllm:kv_offload_npu_evicted_blocks:{(LABEL,)}"] == 2

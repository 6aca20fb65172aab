"""Counts, from the scheduler's process to the one that serves ``/metrics``."""

from __future__ import annotations

import json
from dataclasses import fields
from types import SimpleNamespace

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from vllm_npu_models.snapshots.connector import NPUSessionConnector
from vllm_npu_models.snapshots.metrics import SnapshotPromMetrics, SnapshotStats
from vllm_npu_models.snapshots.tally import Tally

TYPES = {kind: kind for kind in (Counter, Gauge, Histogram)}


def _metrics(model: str) -> SnapshotPromMetrics:
    made = NPUSessionConnector.build_prom_metrics(
        SimpleNamespace(kv_transfer_config=None),  # type: ignore[arg-type]
        TYPES,
        ["model_name", "engine"],
        {0: [model, "0"], 1: [model, "1"]},
    )
    assert isinstance(made, SnapshotPromMetrics)
    return made


def _value(name: str, model: str, engine: int = 0) -> float | None:
    labels = {"model_name": model, "engine": str(engine)}
    return REGISTRY.get_sample_value(f"vllm_npu:snapshot_{name}", labels)


def test_counters_add_up_and_gauges_are_what_they_are_now() -> None:
    metrics = _metrics("one")
    for entries in (3, 2):
        stats = SnapshotStats.of(Tally(hits=1, hit_tokens=40), entries, 1000 * entries)
        # As it comes out of another process.
        metrics.observe(json.loads(json.dumps(stats.to_dict())), 1)
    assert _value("hits_total", "one", 1) == 2
    assert _value("hit_tokens_total", "one", 1) == 80
    assert _value("entries", "one", 1) == 2
    assert _value("host_bytes", "one", 1) == 2000
    assert _value("hits_total", "one", 0) == 0


def test_every_count_is_there_to_be_seen_before_anything_happens() -> None:
    _metrics("two")
    names = [f"{each.name}_total" for each in fields(Tally)]
    assert all(_value(name, "two") == 0 for name in [*names, "entries", "host_bytes"])


def test_a_second_engine_in_the_process_shares_the_metrics() -> None:
    _metrics("three")
    _metrics("four")
    assert _value("hits_total", "four") == 0


def test_the_log_line_sums_up_what_happened_between_two() -> None:
    total = NPUSessionConnector.build_kv_connector_stats({})
    assert total is not None
    assert total.is_empty()
    for hits in (1, 2):
        total = total.aggregate(SnapshotStats.of(Tally(hits=hits), hits, 0))
    assert not total.is_empty()
    reduced = total.reduce()
    assert (reduced["snapshot hits"], reduced["snapshot entries"]) == (3, 2)

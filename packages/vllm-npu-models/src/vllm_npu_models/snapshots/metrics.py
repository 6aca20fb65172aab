"""Counts of kept prefixes at ``/metrics``, and in vLLM's log line on transfers of KV."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

from vllm_npu_models.snapshots.tally import Tally

_COUNTERS = {
    "hits": "Requests that went on from a kept prefix.",
    "hit_tokens": "Prompt tokens that weren't computed, as a kept prefix had them.",
    "loads": "Prefixes loaded from the host.",
    "slot_copies": "Prefixes copied from one slot to another.",
    "copy_outs": "Prefixes copied out of their slot to the host.",
    "evictions": "Prefixes given up for want of room.",
    "refused": "Prefixes computed anew, as loading them would have taken longer.",
    "failed_loads": "Prefixes that couldn't be loaded, and were computed after all.",
    "failures": "Requests whose slot failed.",
}
_GAUGES = {
    "entries": "Prefixes of finished requests that are kept.",
    "host_bytes": "Bytes of the host's memory that prefixes take.",
}


class SnapshotStats(KVConnectorStats):
    """Counts since the last, and how much is kept now."""

    data: dict[str, int]

    @classmethod
    def of(cls, tally: Tally, entries: int, host_bytes: int) -> SnapshotStats:
        """From the scheduler's side."""
        return cls(data={**asdict(tally), "entries": entries, "host_bytes": host_bytes})

    def reset(self) -> None:
        """Start counting anew."""
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Add up with newer ones."""
        if other.is_empty():
            return self
        old = self.data
        self.data = {
            name: value if name in _GAUGES else old.get(name, 0) + value
            for name, value in other.data.items()
        }
        return self

    def reduce(self) -> dict[str, int | float]:
        """For the log line."""
        return {f"snapshot {name.replace('_', ' ')}": value for name, value in self.data.items()}

    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not self.data


class SnapshotPromMetrics(KVConnectorPromMetrics):
    """The same as Prometheus metrics, in the process that serves them."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        labels = tuple(labelnames)
        counter, gauge = metric_types[Counter], metric_types[Gauge]
        self._metrics = {
            **{name: _counter(counter, name, labels) for name in _COUNTERS},
            **{name: _gauge(gauge, name, labels) for name in _GAUGES},
        }
        for values in per_engine_labelvalues.values():
            for metric in self._metrics.values():
                metric.labels(*values)  # There to be seen before anything is counted.

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Take in what an engine counted."""
        values = self.per_engine_labelvalues[engine_idx]
        for name, value in transfer_stats_data.items():
            metric = self._metrics[name].labels(*values)
            if name in _GAUGES:
                metric.set(value)
            else:
                metric.inc(value)


# One of each per process, however many engines it sees: labels tell those apart. They aren't
# called `vllm:…`, as vLLM unregisters whatever is when it sets up its own anew.
@cache
def _counter(kind: Any, name: str, labels: tuple[str, ...]) -> Any:
    return kind(
        name=f"vllm_npu:snapshot_{name}", documentation=_COUNTERS[name], labelnames=list(labels)
    )


@cache
def _gauge(kind: Any, name: str, labels: tuple[str, ...]) -> Any:
    return kind(
        name=f"vllm_npu:snapshot_{name}",
        documentation=_GAUGES[name],
        labelnames=list(labels),
        multiprocess_mode="mostrecent",
    )

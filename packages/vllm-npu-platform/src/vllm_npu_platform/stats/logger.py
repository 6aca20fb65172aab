"""Prometheus metrics of the NPU, beside vLLM's own at ``/metrics``."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge
from vllm.v1.metrics.loggers import StatLoggerBase

from vllm_npu_platform.stats import counters
from vllm_npu_platform.stats.board import BoardReader, board_path

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats

_logger = logging.getLogger("vllm.npu")

_LABELS = ("model_name", "engine")
_HELP = {
    counters.STEPS: "Engine steps that ran the model.",
    counters.DEVICE_SECONDS: "Seconds of steps spent in compiled programs.",
    counters.HOST_SECONDS: "Seconds of steps spent in the worker outside compiled programs.",
    counters.TOKENS: "Real tokens that programs ran on.",
    counters.PADDED_TOKENS: "Tokens of padding that programs ran on.",
    counters.ROWS: "Real requests that programs ran on.",
    counters.PADDED_ROWS: "Requests of padding that programs ran on.",
    counters.COMPILED: "Graphs compiled.",
    counters.LOADED: "Graphs loaded from the compile cache.",
    counters.LATE: "Graphs compiled after warm-up, while requests waited.",
    counters.COMPILE_SECONDS: "Seconds spent in tracing and compiling graphs.",
    counters.NONFINITE: "Requests ended as their hidden states or logits held NaN or infinity.",
}


class NPUStatLogger(StatLoggerBase):
    """Turns the board's counters into Prometheus counters, and now and then into a log line."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:
        from vllm_npu_platform.target import Target

        try:
            self._board: BoardReader | None = BoardReader(board_path(vllm_config))
        except OSError:  # The worker has met the same, and warned.
            self._board = None
        self._seen: dict[str, float] = {}
        self._logged: dict[str, float] = {}
        name = vllm_config.model_config.served_model_name
        self._labels = (name if isinstance(name, str) else str(name), str(engine_index))
        self._plain = {key: _counter(key, text, _LABELS) for key, text in _HELP.items()}
        self._buckets = _counter("bucket_hits", "Runs by bucket.", (*_LABELS, "bucket"))
        self._start = _gauge("start_seconds", "Seconds of the engine's start.", (*_LABELS, "part"))
        self._device = Target.of(vllm_config).device.name

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        """Bring the metrics up to the board."""
        counts = {} if self._board is None else self._board.read()
        for key, value in counts.items():
            gain = value - self._seen.get(key, 0.0)
            if gain <= 0 and key in self._seen:
                continue  # What is new is counted even at zero, so that it is there to be seen.
            self._seen[key] = value
            if key.startswith(counters.BUCKET):
                bucket = key.removeprefix(counters.BUCKET)
                self._buckets.labels(*self._labels, bucket).inc(gain)
            elif key.startswith(counters.START_SECONDS):
                part = key.removeprefix(counters.START_SECONDS)
                self._start.labels(*self._labels, part).set(value)
            else:
                self._plain[key].labels(*self._labels).inc(gain)

    def log_engine_initialized(self) -> None:
        """Bring up what warm-up has counted."""
        self.record(None, None)

    def log(self) -> None:
        """One line on the steps since the last, if there were any."""
        now = self._seen
        since = {key: value - self._logged.get(key, 0.0) for key, value in now.items()}
        self._logged = dict(now)
        steps = since.get(counters.STEPS, 0.0)
        if steps < 1:
            return
        real, padded = since[counters.TOKENS], since[counters.PADDED_TOKENS]
        _logger.info(
            "NPU %s: %d steps, device %.1f ms and host %.1f ms a step, %.0f %% of tokens padding, "
            "%d graphs compiled late",
            self._device,
            steps,
            1e3 * since[counters.DEVICE_SECONDS] / steps,
            1e3 * since[counters.HOST_SECONDS] / steps,
            100 * padded / max(real + padded, 1.0),
            since[counters.LATE],
        )


@cache
def _counter(key: str, text: str, labels: tuple[str, ...]) -> Counter:
    """One counter per process: every engine of it has a logger, told apart by labels.

    Not called `vllm:…`: vLLM unregisters whatever is, when it sets up its own metrics after ours.
    """
    return Counter(f"vllm_npu:{key}", text, labels)


@cache
def _gauge(key: str, text: str, labels: tuple[str, ...]) -> Gauge:
    """Likewise, what isn't counted up."""
    return Gauge(f"vllm_npu:{key}", text, labels)

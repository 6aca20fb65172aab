"""Metrics: the board's counters as Prometheus counters, and as a log line."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from vllm.v1.metrics.prometheus import unregister_vllm_metrics

from vllm_npu_platform.stats import counters as names
from vllm_npu_platform.stats.board import BoardWriter, board_path
from vllm_npu_platform.stats.counters import Counters
from vllm_npu_platform.stats.logger import NPUStatLogger


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Any:
    """A model name of each test's own, as Prometheus counters live as long as the process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return SimpleNamespace(
        instance_id="one",
        parallel_config=SimpleNamespace(data_parallel_index=0),
        model_config=SimpleNamespace(served_model_name=request.node.name),
        additional_config={"npu": {"device": "reference"}},
    )


@pytest.fixture
def worker(config: Any) -> Counters:
    counters = Counters()
    counters.board = BoardWriter(board_path(config), counters.declare(["tokens=8"]))
    return counters


def metric(config: Any, name: str, **labels: str) -> float | None:
    model = config.model_config.served_model_name
    labels = {"model_name": model, "engine": "0", **labels}
    return REGISTRY.get_sample_value(f"vllm_npu:{name}_total", labels)


def test_metrics_follow_the_board(config: Any, worker: Counters) -> None:
    logger = NPUStatLogger(config)
    worker.add(names.TOKENS, 5)
    logger.record(None, None)
    assert metric(config, "tokens") == 5
    worker.add(names.TOKENS, 2)
    logger.record(None, None)
    logger.record(None, None)
    assert metric(config, "tokens") == 7


def test_buckets_are_labels(config: Any, worker: Counters) -> None:
    logger = NPUStatLogger(config)
    worker.add(f"{names.BUCKET}tokens=8", 3)
    logger.record(None, None)
    assert metric(config, "bucket_hits", bucket="tokens=8") == 3


def test_what_warm_up_counted_is_there_from_the_start(config: Any, worker: Counters) -> None:
    worker.add(names.COMPILED, 4)
    NPUStatLogger(config).log_engine_initialized()
    assert metric(config, "graphs_compiled") == 4


def test_the_start_is_told_by_part(config: Any, worker: Counters) -> None:
    worker.start.seconds["weights"] = 2.5
    worker.started()
    NPUStatLogger(config).log_engine_initialized()
    model = config.model_config.served_model_name
    labels = {"model_name": model, "engine": "0", "part": "weights"}
    assert REGISTRY.get_sample_value("vllm_npu:start_seconds", labels) == 2.5
    labels["part"] = "load"
    assert REGISTRY.get_sample_value("vllm_npu:start_seconds", labels) == 0


def test_metrics_outlive_vllm_setting_up_its_own(config: Any, worker: Counters) -> None:
    logger = NPUStatLogger(config)
    unregister_vllm_metrics()  # vLLM does it after it has made ours.
    worker.add(names.STEPS)
    logger.record(None, None)
    assert metric(config, "steps") == 1


def test_engines_of_one_process_share_the_metrics(config: Any, worker: Counters) -> None:
    first, second = NPUStatLogger(config, 0), NPUStatLogger(config, 1)
    worker.add(names.STEPS)
    first.record(None, None)
    second.record(None, None)
    assert metric(config, "steps", engine="1") == 1


def test_without_a_board_there_is_nothing_to_say(
    config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logger = NPUStatLogger(config)
    with caplog.at_level(logging.INFO, "vllm.npu"):
        logger.record(None, None)
        logger.log()
    assert caplog.records == []
    assert metric(config, "steps") is None


def test_a_line_sums_up_the_steps_since_the_last(
    config: Any, worker: Counters, caplog: pytest.LogCaptureFixture
) -> None:
    logger = NPUStatLogger(config)
    worker.add(names.STEPS, 4)
    worker.add(names.DEVICE_SECONDS, 0.02)
    worker.add(names.HOST_SECONDS, 0.004)
    worker.add(names.TOKENS, 6)
    worker.add(names.PADDED_TOKENS, 2)
    with caplog.at_level(logging.INFO, "vllm.npu"):
        logger.record(None, None)
        logger.log()
        logger.log()  # No steps since.
    (record,) = caplog.records
    assert record.getMessage() == (
        "NPU reference: 4 steps, device 5.0 ms and host 1.0 ms a step, 25 % of tokens padding, "
        "0 graphs compiled late"
    )

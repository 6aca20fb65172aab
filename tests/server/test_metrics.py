"""What a server tells of itself: counters at `/metrics`, and lines in its log."""

from __future__ import annotations

import openai
import pytest

from tests.server.waiting import running, wait_for
from tests.serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.serve]

MODEL = "demo"
PROMPT = "Shall I compare thee to a summer's day?"


class TestMetrics:
    """Our counters at `/metrics`, beside vLLM's own."""

    def test_a_request_is_counted(self, demo: Server, client: openai.OpenAI) -> None:
        before, buckets_before = demo.metrics(), bucket_hits(demo)
        client.completions.create(
            model=MODEL,
            prompt=PROMPT,
            max_tokens=20,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        wait_for(lambda: running(demo) == 0)
        gain = {name: value - before.get(name, 0.0) for name, value in demo.metrics().items()}
        hits = {size: hits - buckets_before[size] for size, hits in bucket_hits(demo).items()}
        steps = gain["vllm_npu:steps_total"]
        # One for each token, and a few more where the scheduler runs ahead of the sampler.
        assert 20 <= steps <= 24
        assert sum(hits.values()) == gain["vllm_npu:bucket_hits_total"] == steps
        assert hits[4] >= 19, "a single request decodes in the smallest bucket"
        rows = gain["vllm_npu:rows_total"], gain["vllm_npu:padded_rows_total"]
        assert rows[0] == steps
        assert sum(rows) == sum(count * min(size, 8) for size, count in hits.items())
        tokens = gain["vllm_npu:tokens_total"], gain["vllm_npu:padded_tokens_total"]
        assert tokens[0] >= steps
        assert sum(tokens) == sum(count * size for size, count in hits.items())
        assert gain["vllm_npu:device_seconds_total"] > 0
        assert gain["vllm_npu:host_seconds_total"] > 0

    def test_samples_are_labelled_as_vllms_are(self, demo: Server) -> None:
        ours = [each for each in demo.samples() if each[0].startswith("vllm_npu:")]
        assert len(ours) > 10
        for _name, labels, _value in ours:
            assert (labels["model_name"], labels["engine"]) == (MODEL, "0")

    def test_nothing_was_compiled_after_warm_up(self, demo: Server) -> None:
        metrics = demo.metrics()
        assert metrics["vllm_npu:graphs_compiled_total"] == 3
        assert metrics["vllm_npu:compile_seconds_total"] > 0
        assert metrics["vllm_npu:graphs_compiled_late_total"] == 0


def test_the_start_up_line_says_where_the_model_runs(demo: Server) -> None:
    (line,) = [line for line in demo.log.read_text().splitlines() if "NPU platform:" in line]
    for word in ("reference", "torch", "float32", "paged", "KV", "3 graphs compiled", "tokens=256"):
        assert word in line


def test_vllm_knows_our_variables(demo: Server) -> None:
    assert "Unknown vLLM environment variable" not in demo.log.read_text()


def bucket_hits(server: Server) -> dict[int, float]:
    """Runs by the bucket's number of tokens."""
    return {
        int(labels["bucket"].removeprefix("tokens=")): value
        for name, labels, value in server.samples()
        if name == "vllm_npu:bucket_hits_total"
    }

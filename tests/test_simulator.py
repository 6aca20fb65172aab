"""Devices on paper: the same tokens within a datasheet's limits, and clear ends beyond them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.asking import expected
from tests.engine_process import run, tokens_of
from tests.prompts import clear_prompts

pytestmark = pytest.mark.usefixtures("forks")

NEW_TOKENS = 8


@pytest.mark.parametrize("device", ["sim:small", "sim:large", "sim:basic"])
def test_tokens_equal_hugging_face(device: str, tiny_model: Callable[[str], Path]) -> None:
    """`small` only gathers and takes 8 requests and 256 tokens; `basic` leaves attention to the
    host, which the start-up line says."""
    path = tiny_model("llama")
    prompts = clear_prompts(path, 10, NEW_TOKENS, longest=300)
    done = run(device, path, prompts, NEW_TOKENS, max_num_seqs=10)
    assert tokens_of(done) == expected(path, prompts, NEW_TOKENS)
    (line,) = [line for line in done.output.splitlines() if "NPU platform:" in line]
    assert device in line
    on_the_host = "aten._softmax" in line or "aten.softmax" in line
    assert on_the_host == (device == "sim:basic"), line


def test_too_little_memory_for_the_kv_cache_is_said_at_start(
    tiny_model: Callable[[str], Path],
) -> None:
    done = run("sim:tiny", tiny_model("llama"), [[1]], 1, kv_cache_memory_bytes=128 << 20)
    assert done.returncode != 0
    assert "--kv-cache-memory-bytes 134217728" in done.output
    assert "0.06 GiB free" in done.output


def test_graphs_that_do_not_fit_end_the_start_by_name(tiny_model: Callable[[str], Path]) -> None:
    npu = {"driver_options": {"memory": 300_000}}
    done = run("sim:large", tiny_model("llama"), [[1]], 1, npu)
    assert done.returncode != 0
    assert "OutOfMemoryError" in done.output


@pytest.mark.parametrize(
    ("fault", "error"), [("device_lost", "DeviceLostError"), ("stall", "DeviceTimeoutError")]
)
def test_a_device_that_fails_ends_the_engine_by_name(
    tiny_model: Callable[[str], Path], fault: str, error: str
) -> None:
    """Warm-up has run every graph once; the fault strikes a later run."""
    npu = {"driver_options": {"fail": f"{fault}@run:6"}, "run_timeout": 0.5}
    done = run("sim:large", tiny_model("llama"), [[1, 2, 3]], NEW_TOKENS, npu)
    assert done.returncode != 0
    assert error in done.output

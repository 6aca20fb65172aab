"""Devices on paper: the same tokens within a datasheet's limits, and clear ends beyond them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.asking import expected
from tests.prompts import mixed_prompts

NEW_TOKENS = 8

SCRIPT = """
import json, sys
from tests.asking import greedy
from tests.conftest import ENGINE, NPU

def main():
    from vllm import LLM
    path, prompts, npu, options = json.loads(sys.argv[1])
    llm = LLM(path, additional_config={"npu": {**NPU, **npu}}, **{**ENGINE, **options})
    print("TOKENS", json.dumps(greedy(llm, prompts, %d)))

if __name__ == "__main__":
    main()
""" % NEW_TOKENS


def run(
    device: str, path: Path, prompts: list[list[int]], npu: object = None, **options: object
) -> subprocess.CompletedProcess[str]:
    """An engine in a process of its own, as the device comes from the environment."""
    import json
    import os

    argument = json.dumps([str(path), prompts, npu or {}, options])
    environment = {**os.environ, "VLLM_NPU_DEVICE": device, "VLLM_LOGGING_LEVEL": "INFO"}
    root = Path(__file__).parent.parent
    script = root / ".cache" / "engine_on_paper.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(SCRIPT)
    environment["PYTHONPATH"] = str(root)
    return subprocess.run(
        [sys.executable, str(script), argument],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )


def tokens_of(done: subprocess.CompletedProcess[str]) -> list[list[int]]:
    import json

    lines = [line for line in done.stdout.splitlines() if line.startswith("TOKENS ")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    result: list[list[int]] = json.loads(lines[0].removeprefix("TOKENS "))
    return result


@pytest.mark.parametrize("device", ["sim:small", "sim:large", "sim:basic"])
def test_tokens_equal_hugging_face(device: str, tiny_model: Callable[[str], Path]) -> None:
    """`small` only gathers and takes 8 requests and 256 tokens; `basic` leaves attention to the
    host, which the start-up line says."""
    path = tiny_model("llama")
    prompts = mixed_prompts(path, count=10, longest=300)
    done = run(device, path, prompts, max_num_seqs=10)
    assert tokens_of(done) == expected(path, prompts, NEW_TOKENS)
    (line,) = [line for line in done.stdout.splitlines() if "NPU platform:" in line]
    assert device in line
    on_the_host = "aten._softmax" in line or "aten.softmax" in line
    assert on_the_host == (device == "sim:basic"), line


def test_too_little_memory_for_the_kv_cache_is_said_at_start(
    tiny_model: Callable[[str], Path],
) -> None:
    done = run("sim:tiny", tiny_model("llama"), [[1]], kv_cache_memory_bytes=128 << 20)
    assert done.returncode != 0
    assert "--kv-cache-memory-bytes 134217728" in done.stdout + done.stderr
    assert "0.06 GiB free" in done.stdout + done.stderr


def test_graphs_that_do_not_fit_end_the_start_by_name(tiny_model: Callable[[str], Path]) -> None:
    npu = {"driver_options": {"memory": 300_000}}
    done = run("sim:large", tiny_model("llama"), [[1]], npu)
    assert done.returncode != 0
    assert "OutOfMemoryError" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("fault", "error"), [("device_lost", "DeviceLostError"), ("stall", "DeviceTimeoutError")]
)
def test_a_device_that_fails_ends_the_engine_by_name(
    tiny_model: Callable[[str], Path], fault: str, error: str
) -> None:
    """Warm-up has run every graph once; the fault strikes a later run."""
    npu = {"driver_options": {"fail": f"{fault}@run:12"}, "run_timeout": 0.5}
    done = run("sim:large", tiny_model("llama"), [[1, 2, 3]], npu)
    assert done.returncode != 0
    assert error in done.stdout + done.stderr

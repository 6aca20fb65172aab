"""Host time of a decode step: the whole engine step less the run of the compiled programs.

One process runs the engine and the model, so that nothing but the host's work is in between.
Prints a table; `--json FILE` writes the figures with date, machine and commit as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before vllm and torch are imported: they read these once.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_NPU_DEVICE", "reference")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

if TYPE_CHECKING:
    from vllm import LLM

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "sonnets" / "model"
BATCHES = (1, 8)
PROMPT_TOKENS = 32
WARM_UP_STEPS = 20
STEPS = 200
LIMIT_MS = {8: 3.0}


def device_seconds(llm: LLM) -> float:
    """Seconds in compiled programs so far."""
    (seconds,) = llm.collective_rpc(lambda worker: worker.counters.values["device_seconds"])
    return float(seconds)


def measure(llm: LLM, batch: int) -> dict[str, float]:
    """Medians over the steps of one batch, in milliseconds."""
    from vllm import SamplingParams

    engine = llm.llm_engine
    params = SamplingParams(temperature=0, max_tokens=WARM_UP_STEPS + STEPS + 8, ignore_eos=True)
    for index in range(batch):
        prompt = {"prompt_token_ids": [10 + index, *range(20, 19 + PROMPT_TOKENS)]}
        engine.add_request(f"{batch}-{index}", prompt, params)
    for _ in range(WARM_UP_STEPS):
        engine.step()
    wholes, devices = [], []
    for _ in range(STEPS):
        before = device_seconds(llm)
        begin = time.perf_counter()
        engine.step()
        wholes.append(1e3 * (time.perf_counter() - begin))
        devices.append(1e3 * (device_seconds(llm) - before))
    while engine.has_unfinished_requests():
        engine.step()
    hosts = [whole - device for whole, device in zip(wholes, devices, strict=True)]
    return {
        "step_ms": statistics.median(wholes),
        "device_ms": statistics.median(devices),
        "host_ms": statistics.median(hosts),
    }


def circumstances() -> dict[str, Any]:
    """Where and when this was measured."""
    import torch
    import vllm

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vllm": vllm.__version__,
        "device": os.environ["VLLM_NPU_DEVICE"],
        "model": str(MODEL.relative_to(ROOT)),
    }


def main() -> None:
    """See --help."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()

    from vllm import LLM

    llm = LLM(
        str(MODEL),
        max_model_len=512,
        max_num_seqs=max(BATCHES),
        max_num_batched_tokens=64,
        kv_cache_memory_bytes=64 << 20,
    )
    figures = {batch: measure(llm, batch) for batch in BATCHES}
    where = circumstances()
    print(f"\nDecode step of {where['model']} on {where['device']}, medians of {STEPS} steps")
    print(
        f"{where['date']}, commit {where['commit']}, {where['cores']} cores, torch {where['torch']}"
    )
    print(f"{'batch':>6} {'step ms':>9} {'device ms':>10} {'host ms':>9}")
    for batch, figure in figures.items():
        limit = LIMIT_MS.get(batch)
        verdict = "" if limit is None else f"  (limit {limit} ms)"
        print(
            f"{batch:>6} {figure['step_ms']:>9.2f} {figure['device_ms']:>10.2f} "
            f"{figure['host_ms']:>9.2f}{verdict}"
        )
    if options.json:
        options.json.write_text(json.dumps({**where, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()

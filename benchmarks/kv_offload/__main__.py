"""Time to the first token when a prefix left the device's cache, and throughput without a hit.

On the 350 M model: a prompt of 1,024 tokens and 16 more is computed, then asked for again from
host memory, then from the directory; and batches of prompts that nobody has seen are given, in
turns, to an engine with the connector and to one without.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.kv_offload.engine import Engine, Tokens
from benchmarks.kv_offload.table import table
from benchmarks.serving.arithmetic import common_dtype
from benchmarks.serving.cases import SHAPES
from benchmarks.serving.checkpoint import ROOT, ensure
from benchmarks.serving.machine import circumstances

RESULT = ROOT / "benchmarks" / "results" / "kv-offload.json"
PAGE = ROOT / "docs" / "kv-offload-figures.md"
TAIL, BATCH, PROMPT, NEW = 16, 8, 128, 32
OPTIONS: dict[str, Any] = {
    "max_model_len": 2048,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 512 << 20,
    "seed": 0,
}


class Prompts:
    """Random tokens that nobody has seen before."""

    def __init__(self, vocabulary: int) -> None:
        self._random = random.Random(0)
        self._vocabulary = vocabulary

    def some(self, length: int) -> Tokens:
        """So many."""
        return [self._random.randrange(100, self._vocabulary) for _ in range(length)]


def first_tokens(engine: Engine, prompts: Prompts, prefix: int, rounds: int) -> dict[str, Any]:
    """Seconds to the first token, each way, and whether it was always the same one."""
    seconds: dict[str, list[float]] = {"computed": [], "host": [], "disk": []}
    same = True
    for _ in range(rounds):
        prompt = prompts.some(prefix + TAIL)
        found = []
        for way in seconds:
            taken, tokens = engine.ask([prompt], 1)
            seconds[way].append(taken)
            found.append(tokens)
            engine.forget(host=way == "host")
        same = same and found[0] == found[1] == found[2]
    return {"prefix": prefix, "seconds": seconds, "same_tokens": same}


def throughput(engines: dict[str, Engine], prompts: Prompts, rounds: int) -> dict[str, Any]:
    """Seconds of batches without a hit, with the connector and without, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds):
        batch = [prompts.some(PROMPT) for _ in range(BATCH)]
        order = list(engines) if turn % 2 == 0 else list(engines)[::-1]
        for name in order:
            seconds[name].append(engines[name].ask(batch, NEW)[0])
    tokens = BATCH * (PROMPT + NEW)
    return {"batch": BATCH, "prompt": PROMPT, "new": NEW, "tokens": tokens, "seconds": seconds}


def main() -> int:
    """Measure, print, write; 1 where a token differs."""
    parser = argparse.ArgumentParser(prog="nox -s bench -- kv-offload", description=__doc__)
    parser.add_argument("--prefix", type=int, default=1024, help="tokens; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--device", default="openvino:CPU", help="default: %(default)s")
    parser.add_argument("--no-page", action="store_true", help="print only")
    given = parser.parse_args()
    os.environ |= {
        "VLLM_NPU_DEVICE": given.device,
        "VLLM_LOGGING_LEVEL": "WARNING",
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
    }
    dtype = common_dtype(given.device)
    shape = replace(SHAPES["350m"], dtype=dtype)
    checkpoint, prompts = ensure(shape), Prompts(shape.vocabulary)
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as directory:
        disk = {"type": "fs", "root_dir": directory, "max_bytes": "4GiB"}
        connector = {"cpu_bytes_to_use": "1GiB", "secondary_tiers": [disk]}
        engines = {
            "with": Engine(checkpoint, connector, **OPTIONS),
            "without": Engine(checkpoint, None, **OPTIONS),
        }
        for engine in engines.values():
            engine.ask([prompts.some(PROMPT) for _ in range(BATCH)], NEW)
        engines["with"].forget()
        result = {
            "circumstances": circumstances(),
            "device": given.device,
            "dtype": dtype,
            "first_token": first_tokens(engines["with"], prompts, given.prefix, given.rounds),
            "throughput": throughput(engines, prompts, 4 * given.rounds),
        }
        for engine in engines.values():
            engine.close()
    page = table(result)
    print(page)
    if not given.no_page:
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
        PAGE.write_text(page)
    return int(not result["first_token"]["same_tokens"])


if __name__ == "__main__":
    assert Path.cwd() == ROOT, "run it from the repository's root, with `nox -s bench`"
    sys.exit(main())

"""Time to the first token with a prefix that an earlier request had, against without.

On an artifact of the 350 M model: pairs of requests that share 1,024 tokens and end in 16 of their
own, each pair with another prefix. `nox -s bench -- prefix-reuse` runs it.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.serving import artifact
from benchmarks.serving.cases import SHAPES
from benchmarks.serving.checkpoint import ROOT, ensure

NEW_TOKENS = 16


def pairs(prefix: int, count: int, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    """Requests of random tokens, two and two with the same beginning."""
    pick = random.Random(prefix)

    def some(length: int) -> list[int]:
        return [pick.randrange(100, vocabulary) for _ in range(length)]

    beginnings = [some(prefix) for _ in range(count)]
    return [([*each, *some(16)], [*each, *some(16)]) for each in beginnings]


def first_token(llm: Any, prompt: list[int]) -> float:
    """Seconds."""
    begin = time.perf_counter()
    tokens(llm, prompt, 1)
    return time.perf_counter() - begin


def tokens(llm: Any, prompt: list[int], new: int = NEW_TOKENS) -> list[int]:
    """Greedy ones."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
    (output,) = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
    return list(output.outputs[0].token_ids)


def main() -> int:
    """Measure and print; 1 where tokens differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", type=int, default=1024, help="tokens; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--device", default="openvino:CPU", help="default: %(default)s")
    options = parser.parse_args()
    os.environ["VLLM_NPU_DEVICE"] = options.device
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    shape = SHAPES["350m"]
    checkpoint = ensure(shape)
    # In another process: what it imports and holds shall not weigh on the engines.
    ahead = [sys.executable, "-W", "ignore", "-m", "benchmarks.serving.artifact", str(checkpoint)]
    subprocess.run([*ahead, "--alone"], cwd=ROOT, check=True)

    from vllm import LLM

    asked = pairs(options.prefix, options.pairs, shape.vocabulary)
    warm_up = list(range(100, 140))
    found: dict[bool, list[list[int]]] = {}
    times: dict[bool, tuple[list[float], list[float]]] = {}
    for reuse in (True, False):
        directory = str(artifact.where(checkpoint))
        llm = LLM(directory, enable_prefix_caching=reuse, max_num_seqs=4)
        tokens(llm, warm_up)
        firsts, seconds, given = [], [], []
        for one, other in asked:
            firsts.append(first_token(llm, one))
            seconds.append(first_token(llm, other))
            given += [tokens(llm, one), tokens(llm, other)]
        times[reuse], found[reuse] = (firsts, seconds), given
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
    for reuse, (firsts, seconds) in times.items():
        ratio = statistics.median(one / other for one, other in zip(firsts, seconds, strict=True))
        print(
            f"prefix of {options.prefix} tokens, reuse {'on' if reuse else 'off'}: first "
            f"{1e3 * statistics.median(firsts):.0f} ms, second "
            f"{1e3 * statistics.median(seconds):.0f} ms, {ratio:.1f} times faster"
        )
    same = found[True] == found[False]
    print(f"tokens {'the same' if same else 'DIFFER'} on and off")
    return int(not same)


if __name__ == "__main__":
    assert Path.cwd() == ROOT, "run it from the repository's root, with `nox -s bench`"
    sys.exit(main())

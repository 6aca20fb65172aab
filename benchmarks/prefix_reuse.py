"""Time to the first token with a prefix that an earlier request had, against without.

On an artifact of the 350 M model: pairs of requests that share 1,024 tokens and end in 16 of their
own, each pair with another prefix. `nox -s bench -- prefix-reuse` runs it.

The model's weights are random, so its best tokens lie close together, and in bfloat16, which it is
computed in where the device can, a prompt that is cut into other steps rounds differently. A third
engine, without reuse but with smaller steps, tells by how much: tokens count as the same where two
that changed places lay no further apart than twice that.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.serving import artifact
from benchmarks.serving.arithmetic import common_dtype, told
from benchmarks.serving.cases import SHAPES
from benchmarks.serving.checkpoint import ROOT, ensure

NEW_TOKENS, BEST = 16, 20
SMALLER = "off, smaller steps"


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
    answer(llm, prompt, 1)
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Answer:
    """Greedy tokens, and log probabilities of the best ones of each step."""

    tokens: list[int]
    logprobs: list[dict[int, float]]


def answer(llm: Any, prompt: list[int], new: int = NEW_TOKENS, best: int | None = None) -> Answer:
    """Ask for greedy tokens, with so many log probabilities."""
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0, max_tokens=new, ignore_eos=True, detokenize=False, logprobs=best
    )
    (output,) = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
    (given,) = output.outputs
    steps = [{token: one.logprob for token, one in step.items()} for step in given.logprobs or []]
    return Answer(list(given.token_ids), steps)


def agreed(one: Answer, other: Answer) -> int:
    """Steps whose tokens are the same, from the first on."""
    same = (a == b for a, b in zip(one.tokens, other.tokens, strict=True))
    return next((step for step, equal in enumerate(same) if not equal), len(one.tokens))


def rounding(one: Answer, other: Answer) -> float:
    """The most by which a token's log probability differs, as long as tokens are the same.

    At the step where they part too, as both had the same tokens before it.
    """
    steps = list(zip(one.logprobs, other.logprobs, strict=True))[: agreed(one, other) + 1]
    return max(abs(a[token] - b[token]) for a, b in steps for token in a.keys() & b.keys())


def lead(one: Answer, other: Answer) -> float:
    """Where they part, how far apart `one` has the two tokens; 0 if they don't part."""
    step = agreed(one, other)
    if step == len(one.tokens):
        return 0.0
    best = one.logprobs[step]
    return best[one.tokens[step]] - best.get(other.tokens[step], float("-inf"))


def main() -> int:
    """Measure and print; 1 where tokens differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", type=int, default=1024, help="tokens; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--device", default="openvino:CPU", help="default: %(default)s")
    options = parser.parse_args()
    os.environ["VLLM_NPU_DEVICE"] = options.device
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    dtype = common_dtype(options.device)
    print(f"the model is in {told(dtype)}")
    shape = replace(SHAPES["350m"], dtype=dtype)
    checkpoint = ensure(shape)
    # In another process: what it imports and holds shall not weigh on the engines.
    ahead = [sys.executable, "-W", "ignore", "-m", "benchmarks.serving.artifact", str(checkpoint)]
    subprocess.run([*ahead, "--alone"], cwd=ROOT, check=True)

    from vllm import LLM

    asked = pairs(options.prefix, options.pairs, shape.vocabulary)
    warm_up = list(range(100, 140))
    found: dict[str, list[Answer]] = {}
    times: dict[str, tuple[list[float], list[float]]] = {}
    engines: dict[str, dict[str, Any]] = {
        "on": {"enable_prefix_caching": True},
        "off": {"enable_prefix_caching": False},
        SMALLER: {"enable_prefix_caching": False, "max_num_batched_tokens": 64},
    }
    for name, how in engines.items():
        llm = LLM(str(artifact.where(checkpoint)), max_num_seqs=4, **how)
        answer(llm, warm_up)
        firsts, seconds, given = [], [], []
        for one, other in asked:
            if name != SMALLER:
                firsts.append(first_token(llm, one))
                seconds.append(first_token(llm, other))
            given += [answer(llm, one, best=BEST), answer(llm, other, best=BEST)]
        times[name], found[name] = (firsts, seconds), given
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
    del times[SMALLER]
    for name, (firsts, seconds) in times.items():
        ratio = statistics.median(one / other for one, other in zip(firsts, seconds, strict=True))
        print(
            f"prefix of {options.prefix} tokens, reuse {name}: first "
            f"{1e3 * statistics.median(firsts):.0f} ms, second "
            f"{1e3 * statistics.median(seconds):.0f} ms, {ratio:.1f} times faster"
        )
    rounded = max(map(rounding, found["off"], found[SMALLER]))
    both = list(zip(found["on"], found["off"], strict=True))
    apart = [lead(on, off) for on, off in both if on.tokens != off.tokens]
    worst = max(apart, default=0.0)
    same = worst <= 2 * rounded
    print(
        f"tokens on and off: the same in {len(both) - len(apart)} of {len(both)} answers; in the "
        f"others two tokens changed places that lay at most {worst:.2g} apart. Steps of another "
        f"size change log probabilities by up to {rounded:.2g}, so up to {2 * rounded:.2g} is "
        f"rounding: {'the same' if same else 'DIFFERENT'}."
    )
    return int(not same)


if __name__ == "__main__":
    assert Path.cwd() == ROOT, "run it from the repository's root, with `nox -s bench`"
    sys.exit(main())

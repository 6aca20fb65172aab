"""A 16-bit model where the processor may have no 16-bit arithmetic: its tokens and its memory.

`nox -s bench -- sixteen-bits` serves one bfloat16 checkpoint on OpenVINO's CPU device with
`dtype="bfloat16"` and, for comparison, converted to float32; tokens are held against Hugging
Face's in float32 on the same weights. Each engine runs in processes of its own, whose memory is
read once it has answered (proportional set size: what is shared counts once).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.cases import SHAPES
from benchmarks.serving.checkpoint import ROOT, ensure
from benchmarks.serving.machine import circumstances

PROMPTS, LONGEST, NEW_TOKENS = 8, 160, 48
PENALTY = 1.5
"""Of repetition: a model of random weights says one token for ever without."""
ENGINES = ("bfloat16", "float32")
ANSWER = "SIXTEEN BITS "


def prompts(vocabulary: int) -> list[list[int]]:
    """Random ones of growing length; token ids below 4 are special."""
    draw = random.Random(0)
    lengths = [LONGEST * (index + 1) // PROMPTS for index in range(PROMPTS)]
    return [[draw.randrange(4, vocabulary) for _ in range(length)] for length in lengths]


def memory() -> int:
    """Bytes of this process and its children."""
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_full_info().pss for member in family)


def of_engine(model: Path, dtype: str, asked: list[list[int]]) -> dict[str, Any]:
    """What vLLM on the NPU platform answers, and what it takes."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(model), dtype=dtype, max_model_len=512, max_num_seqs=4, kv_cache_memory_bytes=64 << 20
    )
    params = SamplingParams(
        temperature=0, max_tokens=NEW_TOKENS, min_tokens=NEW_TOKENS, repetition_penalty=PENALTY
    )
    given: Any = [{"prompt_token_ids": each} for each in asked]
    outputs = llm.generate(given, params, use_tqdm=False)
    tokens = [list(each.outputs[0].token_ids) for each in outputs]
    return {"tokens": tokens, "memory": memory()}


def of_hugging_face(model: Path, asked: list[list[int]]) -> dict[str, Any]:
    """What Hugging Face's own model says in float32, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokens = []
    for each in asked:
        whole = oracle.generate(
            torch.tensor([each]),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            repetition_penalty=PENALTY,
        )
        tokens.append(whole[0, len(each) :].tolist())
    return {"tokens": tokens, "memory": memory()}


def measured(who: str, arguments: list[str], device: str) -> dict[str, Any]:
    """Run one of them in processes of its own.

    Raises:
        SystemExit: it failed; the end of what it printed.
    """
    variables = {
        "OMP_WAIT_POLICY": "passive",
        "VLLM_LOGGING_LEVEL": "WARNING",
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NPU_DEVICE": device,
    }
    command = [sys.executable, "-m", "benchmarks.sixteen_bits", *arguments, "--who", who]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if not lines:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(ANSWER))
    return found


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SHAPES, default="350m", help="default: %(default)s")
    parser.add_argument("--device", default="openvino:CPU", help="default: %(default)s")
    parser.add_argument("--who", choices=("hugging-face", *ENGINES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    shape = replace(SHAPES[given.model], dtype="bfloat16")
    path, asked = ensure(shape), prompts(shape.vocabulary)
    if given.who:
        of_one = given.who == "hugging-face"
        found = of_hugging_face(path, asked) if of_one else of_engine(path, given.who, asked)
        print(ANSWER + json.dumps(found))
        return
    arguments = ["--model", given.model, "--device", given.device]
    oracle = measured("hugging-face", arguments, given.device)["tokens"]
    where = circumstances()
    print(f"{shape.name} in bfloat16 on {given.device}, {where['cpu']}, {where['cpu_flags']}")
    print(f"{where['date']}, commit {where['commit']}")
    count, kinds = sum(map(len, oracle)), len({token for each in oracle for token in each})
    print(f"  {count} tokens, {kinds} different ones")
    for dtype in ENGINES:
        found = measured(dtype, arguments, given.device)
        pairs = zip(found["tokens"], oracle, strict=True)
        same = sum(a == b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
        print(
            f"  dtype={dtype}: {same} of {count} tokens as Hugging Face's in float32, "
            f"{found['memory'] / 2**20:,.0f} MiB"
        )


if __name__ == "__main__":
    main()

"""Perplexity of a model with its weights as they are, quantized, and with rounded activations.

`python -m benchmarks.perplexity` measures the demo model on the sonnets that it has never seen, on
OpenVINO's CPU device, each variant in a process of its own, and prints the table of
docs/quantization.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "sonnets"
HELD_OUT = 8
"""Sonnets at the end, which the model wasn't trained on."""
ROUNDED: dict[str, Any] = {
    "kv_cache_dtype": "uint8",
    "driver_options": {"dynamic_quantization": 32},
}
# Activations are rounded in runs of at most 16 tokens, so texts are read in such runs.
IN_SHORT_RUNS = {"max_num_batched_tokens": 16}
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {},
    "npu_w8a16": {"quantization": "npu_w8a16"},
    "npu_w4a16": {"quantization": "npu_w4a16"},
    "w8a8": {
        "quantization": "npu_w8a16",
        "additional_config": {"npu": ROUNDED},
        **IN_SHORT_RUNS,
    },
    "w4a8": {
        "quantization": "npu_w4a16",
        "additional_config": {"npu": ROUNDED, "npu_quantization": {"lm_head": True}},
        **IN_SHORT_RUNS,
    },
}
LABELS = {
    "npu_w8a16": "`npu_w8a16`",
    "npu_w4a16": "`npu_w4a16`",
    "w8a8": "`npu_w8a16`, `dynamic_quantization` 32, KV in `uint8`",
    "w4a8": "`npu_w4a16`, LM head too, `dynamic_quantization` 32, KV in `uint8`",
}
ANSWER = "PERPLEXITY "


def texts(path: Path, count: int) -> list[str]:
    """The last texts of a file that separates them by empty lines."""
    return path.read_text().strip().split("\n\n")[-count:]


def perplexity(model: Path, given: list[str], variant: str, dtype: str) -> float:
    """Of all tokens but the first of each text: e to the mean negative log-likelihood."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(model),
        dtype=dtype,
        max_num_seqs=4,
        kv_cache_memory_bytes=64 << 20,
        **VARIANTS[variant],
    )
    params = SamplingParams(max_tokens=1, prompt_logprobs=0)
    total, count = 0.0, 0
    for output in llm.generate(given, params, use_tqdm=False):
        seen = zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
        for token, found in list(seen)[1:]:
            total -= found[token].logprob
            count += 1
    return math.exp(total / count)


def measured(arguments: list[str], device: str, variant: str) -> float:
    """Run one variant in a process of its own."""
    variables = {
        **os.environ,
        "VLLM_NPU_DEVICE": device,
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_WAIT_POLICY": "passive",
    }
    command = [sys.executable, "-m", "benchmarks.perplexity", *arguments, "--variant", variant]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if not lines:
        raise SystemExit(done.stderr[-3000:])
    return float(json.loads(lines[-1].removeprefix(ANSWER)))


def main() -> None:
    """Print the table, or the figure of one variant."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=EXAMPLE / "model")
    parser.add_argument("--text", type=Path, default=EXAMPLE / "sonnets.txt")
    parser.add_argument("--count", type=int, default=HELD_OUT, help="texts from the end")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="openvino:CPU")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.variant is not None:
        found = perplexity(given.model, texts(given.text, given.count), given.variant, given.dtype)
        print(ANSWER + json.dumps(found))
        return
    options = ["--model", given.model, "--text", given.text, "--count", given.count]
    arguments = [str(each) for each in [*options, "--dtype", given.dtype]]
    base = measured(arguments, given.device, "none")
    print(f"| Weights | Perplexity | Against {given.dtype} |\n|---|---:|---:|")
    print(f"| {given.dtype} | {base:.2f} | |")
    for variant, label in LABELS.items():
        found = measured(arguments, given.device, variant)
        print(f"| {label} | {found:.2f} | {found / base - 1:+.2%} |")


if __name__ == "__main__":
    main()

"""An engine in a process of its own, for what a process decides once: its device.

`python -m tests.engine_process JSON`, where JSON lists the model's path, prompts, number of new
tokens, settings of ours, options of vLLM, and whether the prompts' logprobs are wanted; prints the
greedy tokens, what was compiled, and the logprobs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.asking import ask, greedy
from tests.conftest import CONTRACTS, ENGINE, NPU

ROOT = Path(__file__).parent.parent
MARK = "TOKENS "
COMPILED = "COMPILED "
LOGPROBS = "LOGPROBS "


def run(
    device: str,
    path: Path,
    prompts: list[list[int]],
    new: int,
    npu: object = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run an engine on a device, and wait for its end."""
    return finish(start(device, path, prompts, new, npu, **options))


def start(
    device: str,
    path: Path,
    prompts: list[list[int]],
    new: int,
    npu: object = None,
    env: dict[str, str] | None = None,
    logprobs: bool = False,
    **options: object,
) -> subprocess.Popen[str]:
    """Start an engine on a device; `env` comes on top of this process's environment."""
    argument = json.dumps([str(path), prompts, new, npu or {}, options, logprobs])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.engine_process", argument],
        env={
            **os.environ,
            "VLLM_NPU_DEVICE": device,
            "VLLM_LOGGING_LEVEL": "INFO",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
            **(env or {}),
        },
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for an engine's end."""
    stdout, stderr = process.communicate(timeout=400)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def tokens_of(done: subprocess.CompletedProcess[str]) -> list[list[int]]:
    """What it printed."""
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    result: list[list[int]] = json.loads(lines[0].removeprefix(MARK))
    return result


def compiled(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """How many `graphs` were compiled and `loaded`, and how many `frames` Dynamo traced."""
    lines = [line for line in done.stdout.splitlines() if line.startswith(COMPILED)]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    result: dict[str, int] = json.loads(lines[0].removeprefix(COMPILED))
    return result


def logprobs_of(done: subprocess.CompletedProcess[str]) -> list[list[float]]:
    """Of each prompt's tokens after its first, where they were wanted."""
    lines = [line for line in done.stdout.splitlines() if line.startswith(LOGPROBS)]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    result: list[list[float]] = json.loads(lines[0].removeprefix(LOGPROBS))
    return result


def _logprobs(llm: Any, prompts: list[list[int]]) -> list[list[float]]:
    outputs = ask(llm, prompts, 1, prompt_logprobs=0)
    return [
        [
            given[token].logprob
            for token, given in zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
        ]
        for prompt, output in zip(prompts, outputs, strict=True)
    ]


def _count(worker: Any) -> dict[str, int]:
    import torch

    from vllm_npu_platform.stats import counters as names

    values = worker.counters.values
    return {
        "graphs": int(values[names.COMPILED]),
        "loaded": int(values[names.LOADED]),
        "frames": torch._dynamo.utils.counters["stats"]["unique_graphs"],
    }


def main() -> None:
    """The process itself."""
    from vllm import LLM

    path, prompts, new, npu, options, logprobs = json.loads(sys.argv[1])
    ours = CONTRACTS["openvino"] if "openvino" in os.environ["VLLM_NPU_DEVICE"] else NPU
    llm = LLM(path, additional_config={"npu": {**ours, **npu}}, **{**ENGINE, **options})
    print(MARK + json.dumps(greedy(llm, prompts, new)))
    (counted,) = llm.collective_rpc(_count)
    print(COMPILED + json.dumps(counted))
    if logprobs:
        print(LOGPROBS + json.dumps(_logprobs(llm, prompts)))


if __name__ == "__main__":
    main()

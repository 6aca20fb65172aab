"""An engine from its start to its end, and what its process said of it.

The process is forked (see `tests.forking`); `VLLM_ENABLE_V1_MULTIPROCESSING` decides whether the
engine is in it, or in a process of its own.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests import forking
from tests.asking import ask, greedy
from tests.conftest import CONTRACTS, ENGINE, NPU
from tests.serving import PATIENCE, Finished

MARK = "TOKENS "
COMPILED = "COMPILED "
LOGPROBS = "LOGPROBS "


@dataclass(frozen=True)
class Running:
    """An engine's process, and where it writes."""

    process: BaseProcess
    log: Path


def run(
    device: str,
    path: Path,
    prompts: list[list[int]],
    new: int,
    npu: dict[str, Any] | None = None,
    **options: Any,
) -> Finished:
    """Run an engine on a device, and wait for its end."""
    return finish(start(device, path, prompts, new, npu, **options))


def start(
    device: str,
    path: Path,
    prompts: list[list[int]],
    new: int,
    npu: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    logprobs: bool = False,
    **options: object,
) -> Running:
    """Start an engine on a device.

    Args:
        device: as in `VLLM_NPU_DEVICE`.
        path: of the model.
        prompts: to be asked.
        new: number of greedy tokens.
        npu: settings of ours over those of `tests.conftest`.
        env: variables over this process's.
        logprobs: whether those of the prompts are wanted.
        options: of vLLM over those of `tests.conftest`.
    """
    handle, name = tempfile.mkstemp(suffix=".log")
    os.close(handle)
    ours = CONTRACTS["openvino"] if "openvino" in device else NPU
    options = {"additional_config": {"npu": {**ours, **(npu or {})}}, **ENGINE, **options}
    variables = {"VLLM_NPU_DEVICE": device, "VLLM_LOGGING_LEVEL": "INFO", **(env or {})}
    with patch.dict(os.environ, variables):
        process = forking.process(_serve, path, prompts, new, logprobs, options, log=Path(name))
    return Running(process, Path(name))


def finish(running: Running) -> Finished:
    """Wait for an engine's end."""
    running.process.join(PATIENCE)
    output = running.log.read_text(errors="replace")
    running.log.unlink()
    if running.process.exitcode is None:
        running.process.kill()
        raise AssertionError(f"an engine hangs:\n{output[-4000:]}")
    return Finished(running.process.exitcode, output)


def tokens_of(done: Finished) -> list[list[int]]:
    """What it answered."""
    tokens: list[list[int]] = _printed(done, MARK)
    return tokens


def compiled(done: Finished) -> dict[str, int]:
    """How many `graphs` were compiled and `loaded`, and how many `frames` Dynamo traced."""
    counts: dict[str, int] = _printed(done, COMPILED)
    return counts


def logprobs_of(done: Finished) -> list[list[float]]:
    """Of each prompt's tokens after its first, where they were wanted."""
    logprobs: list[list[float]] = _printed(done, LOGPROBS)
    return logprobs


def _printed(done: Finished, mark: str) -> Any:
    lines = [line for line in done.output.splitlines() if line.startswith(mark)]
    assert lines, done.output[-6000:]
    return json.loads(lines[0].removeprefix(mark))


def _serve(
    path: Path, prompts: list[list[int]], new: int, logprobs: bool, options: dict[str, Any]
) -> None:
    """What the process does."""
    from vllm import LLM

    llm = LLM(str(path), **options)
    print(MARK + json.dumps(greedy(llm, prompts, new)))
    (counted,) = llm.collective_rpc(_count)
    print(COMPILED + json.dumps(counted))
    if logprobs:
        print(LOGPROBS + json.dumps(_logprobs(llm, prompts)))


def _count(worker: Any) -> dict[str, int]:
    import torch

    from vllm_npu_platform.stats import counters as names

    values = worker.counters.values
    return {
        "graphs": int(values[names.COMPILED]),
        "loaded": int(values[names.LOADED]),
        "frames": torch._dynamo.utils.counters["stats"]["unique_graphs"],
    }


def _logprobs(llm: Any, prompts: list[list[int]]) -> list[list[float]]:
    outputs = ask(llm, prompts, 1, prompt_logprobs=0)
    return [
        [
            given[token].logprob
            for token, given in zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
        ]
        for prompt, output in zip(prompts, outputs, strict=True)
    ]

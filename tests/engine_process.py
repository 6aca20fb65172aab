"""An engine in a process of its own, for what a process decides once: its device.

`python -m tests.engine_process JSON`, where JSON lists the model's path, prompts, number of new
tokens, settings of ours and options of vLLM; prints the greedy tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.asking import greedy
from tests.conftest import ENGINE, NPU

ROOT = Path(__file__).parent.parent
MARK = "TOKENS "


def run(
    device: str,
    path: Path,
    prompts: list[list[int]],
    new: int,
    npu: object = None,
    **options: object,
) -> subprocess.CompletedProcess[str]:
    """Run an engine on a device, and wait for its end."""
    argument = json.dumps([str(path), prompts, new, npu or {}, options])
    return subprocess.run(
        [sys.executable, "-m", "tests.engine_process", argument],
        env={
            **os.environ,
            "VLLM_NPU_DEVICE": device,
            "VLLM_LOGGING_LEVEL": "INFO",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )


def tokens_of(done: subprocess.CompletedProcess[str]) -> list[list[int]]:
    """What it printed."""
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    result: list[list[int]] = json.loads(lines[0].removeprefix(MARK))
    return result


def main() -> None:
    """The process itself."""
    from vllm import LLM

    path, prompts, new, npu, options = json.loads(sys.argv[1])
    llm = LLM(path, additional_config={"npu": {**NPU, **npu}}, **{**ENGINE, **options})
    print(MARK + json.dumps(greedy(llm, prompts, new)))


if __name__ == "__main__":
    main()

"""The dtype that every contender takes: bfloat16, or float32 where the processor lacks it.

`python -m benchmarks.serving.arithmetic DEVICE` prints it, in our environment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.serving.checkpoint import ROOT

NAMES = {"bfloat16": "bf16", "float32": "f32"}
"""OpenVINO's names of the dtypes that there are."""
REASON = " (this machine has no 16-bit arithmetic)"
"""What is said beside float32."""


def common_dtype(device: str) -> str:
    """By torch's name.

    Args:
        device: that ours run on.
    """
    import torch

    from vllm_npu_runtime.device import find

    computed = find(device).capabilities.computes_in(torch.bfloat16)
    return "float32" if computed is torch.float32 else "bfloat16"


def asked(python: Path, device: str) -> str:
    """The same, by another environment's interpreter."""
    command = [str(python), "-W", "ignore", "-m", "benchmarks.serving.arithmetic", device]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1]


def told(dtype: str) -> str:
    """For people, with the reason where it isn't the usual one."""
    return dtype if dtype == "bfloat16" else dtype + REASON


if __name__ == "__main__":
    print(common_dtype(sys.argv[1]))

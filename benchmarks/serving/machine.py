"""Where and when this was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.checkpoint import ROOT

DECISIVE = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instructions that decide the speed of bfloat16."""


def cpu(field: str) -> str:
    """A field of the first processor in /proc/cpuinfo."""
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(rf"^{field}\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else "unknown"


def circumstances() -> dict[str, Any]:
    """Date, commit and machine."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    flags = cpu("flags").split()
    family = ", ".join(f"{name} {cpu(name)}" for name in ("cpu family", "model"))
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": commit.stdout.strip(),
        "cpu": f"{cpu('model name')} ({family})",
        "cpu_flags": [flag for flag in DECISIVE if flag in flags],
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_before": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }

"""Looks for devices in another process, since a vendor's runtime may crash or hang it.

Run as ``python -m vllm_npu_runtime.doctor.probe OUT [--driver NAME]... [--find DEVICE]``, it
writes what it found to the file OUT.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from vllm_npu_runtime.doctor.inventory import DriverReport

SECONDS = 120
MODULE = "vllm_npu_runtime.doctor.probe"


class Found(BaseModel):
    """What a probe found.

    `device` is the name of the device that was asked for, in full; `device_error` says why
    there is none.
    """

    drivers: list[DriverReport] = []
    device: str | None = None
    device_error: str | None = None


def probe(drivers: Sequence[str], device: str) -> Found:
    """Everything about these drivers, and which device the name stands for.

    All in one process; if that dies, in one for each driver, to tell which one it was.
    """
    together = _run([*_each(drivers), "--find", device])
    if isinstance(together, Found):
        return together
    reports = []
    for name in drivers:
        alone = _run(_each([name]))
        reports += alone.drivers if isinstance(alone, Found) else [_failed(name, alone)]
    chosen = _run(["--find", device])
    if isinstance(chosen, Found):
        return chosen.model_copy(update={"drivers": reports})
    return Found(drivers=reports, device_error=f"the search for it {chosen}")


def _each(drivers: Sequence[str]) -> list[str]:
    return [word for name in drivers for word in ("--driver", name)]


def _failed(name: str, problem: str) -> DriverReport:
    return DriverReport(name=name, error=f"the search for its devices {problem}")


def _run(arguments: list[str]) -> Found | str:
    """What was found, or how the process ended instead."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "found.json"
        command = [sys.executable, "-P", "-m", MODULE, str(out), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return f"took more than {SECONDS} s"
        if done.returncode == 0:
            return Found.model_validate_json(out.read_text(encoding="utf-8"))
    lines = done.stderr.strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    return f"ended with {_ending(done.returncode)}{last}"


def _ending(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name


def _main() -> None:
    from vllm_npu_runtime.device import find
    from vllm_npu_runtime.doctor.inventory import inventory

    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--driver", action="append", default=[])
    parser.add_argument("--find")
    given = parser.parse_args()
    found = Found(drivers=inventory(given.driver))
    if given.find is not None:
        try:
            found.device = find(given.find).name
        except Exception as problem:
            found.device_error = str(problem) or type(problem).__name__
    given.out.write_text(found.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    _main()

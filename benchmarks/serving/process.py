"""A contender's process, from outside: questions, answers, memory and processor time."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.checkpoint import ROOT
from benchmarks.serving.lineup import Entrant

ANSWER_SECONDS = 900
STOP_SECONDS = 30
LOG_LINES = 15
ERROR_LINE = re.compile(r"\b\w+(Error|Exception): ")


class Failed(Exception):
    """A contender couldn't do what it was asked; the message ends with its log's last lines."""


def cpu_seconds_of_all() -> float:
    """Processor seconds that the machine has spent on anything, a hypervisor's theft included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


class Child:
    """A running contender. Peak memory is known as of the last answer."""

    def __init__(self, entrant: Entrant, cache: Path, log: Path, threads: int) -> None:
        self.name = entrant.name
        self.log = log
        self.peaks: dict[int, int] = {}
        self._output = log.open("a")
        self._process = subprocess.Popen(
            [
                str(entrant.environment / "bin" / "python"),
                "-m",
                "benchmarks.serving.child",
                f"benchmarks.serving.contenders.{entrant.module}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env=entrant.process_environment(cache, threads),
            cwd=ROOT,
            text=True,
            start_new_session=True,  # so that all that it starts can be ended with it
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer; `Failed` if there is none."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("its process has ended") from None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        if not ready:
            raise self._failure(f"no answer in {ANSWER_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failure("its process has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failure(answer["error"])
        self._note_peaks()
        return answer

    def _failure(self, why: str) -> Failed:
        lines = self.log.read_text(errors="replace").splitlines()
        # What went wrong first, in an engine's own process say, is far from the end.
        causes = [line for line in lines[:-LOG_LINES] if ERROR_LINE.search(line)]
        return Failed("\n".join([why, *causes[:1], "...", *lines[-LOG_LINES:]]))

    def _tree(self) -> list[psutil.Process]:
        try:
            head = psutil.Process(self._process.pid)
            return [head, *head.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _note_peaks(self) -> None:
        for process in self._tree():
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    self.peaks[process.pid] = 1024 * int(line.split()[1])

    @property
    def peak_bytes(self) -> int:
        """Peaks of resident memory, added up over its processes: what they share counts in each,
        and peaks needn't fall together, so it is an upper bound."""
        return sum(self.peaks.values())

    def cpu_seconds(self) -> float:
        """Processor time of its processes, ended ones that were waited for included."""
        total = 0.0
        for process in self._tree():
            try:
                total += sum(process.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue
        return total

    def stop(self) -> None:
        """Ask it to end, and make it."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write('{"do": "stop"}\n')
            self._process.stdin.close()
            self._process.wait(STOP_SECONDS)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            pass  # it ends now
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._output.close()

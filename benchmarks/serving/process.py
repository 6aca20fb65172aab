"""A contender's process, from outside: questions, answers, memory and processor time."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.checkpoint import ROOT
from benchmarks.serving.lineup import Entrant

ANSWER_SECONDS = 900
LOOK_SECONDS = 0.5
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
    """A running contender."""

    def __init__(self, entrant: Entrant, cache: Path, log: Path, threads: int) -> None:
        self.name = entrant.name
        self.log = log
        self.peak_bytes = 0
        """The most memory that all its processes took at once, what they share counted once."""
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

    def ask(self, watched: bool = False, **question: Any) -> dict[str, Any]:
        """The answer; `Failed` if there is none.

        Args:
            watched: whether to look at its memory until the answer comes.
            question: what is asked.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("its process has ended") from None
        if not self._answers(LOOK_SECONDS if watched else ANSWER_SECONDS):
            raise self._failure(f"no answer in {ANSWER_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failure("its process has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failure(answer["error"])
        return answer

    def _answers(self, look: float) -> bool:
        """Wait for an answer, looking at memory every `look` seconds; whether there is one."""
        end = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < end:
            ready, _, _ = select.select([self._process.stdout], [], [], look)
            if ready:
                return True
            self.look_at_memory()
        return False

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

    def look_at_memory(self) -> None:
        """Note what it takes now. Not while anything is timed: a look takes a core for some tens
        of milliseconds."""
        now = 0
        for process in self._tree():
            # Those that have just ended have none, and a zombie's can't be read.
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                now += process.memory_full_info().pss
        self.peak_bytes = max(self.peak_bytes, now)

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

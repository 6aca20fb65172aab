"""`vllm serve` as a user runs it: a process of its own, spoken to over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeAlias

import httpx
import openai
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests import forking

Process: TypeAlias = "psutil.Popen | Forked"
VLLM = Path(sys.executable).with_name("vllm")
VLLM_NPU = VLLM.with_name("vllm-npu")
PATIENCE = 300.0
"""Seconds until something counts as hung; nothing else here depends on time."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended.

    Attributes:
        returncode: as the shell would see it.
        output: standard output and standard error, as they came.
    """

    returncode: int
    output: str

    def last_lines(self, count: int = 15) -> str:
        """What a user sees without scrolling."""
        return "\n".join(self.output.rstrip().splitlines()[-count:])


@dataclass(frozen=True)
class Server:
    """A server that has answered.

    Attributes:
        url: without a path.
        process: the API server's.
        log: its output so far, and that of the engine.
    """

    url: str
    process: Process
    log: Path

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rsplit(":", 1)[1])

    @property
    def openai(self) -> openai.OpenAI:
        """The official client; no retries, so that an error is seen."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key="none",
            max_retries=0,
            timeout=PATIENCE,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        )

    @property
    def http(self) -> httpx.Client:
        """For what the official client doesn't know."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def metrics(self) -> dict[str, float]:
        """All counters and gauges of ``/metrics``, summed over labels."""
        sums: dict[str, float] = {}
        for name, _labels, value in self.samples():
            sums[name] = sums.get(name, 0.0) + value
        return sums

    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        """All samples of ``/metrics``: name, labels, value."""
        with self.http as client:
            text = client.get("/metrics").raise_for_status().text
        return [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]


def free_port() -> int:
    """A port that the operating system says is free."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run(
    command: Sequence[str | int | float | Path],
    env: Mapping[str, str | None] | None = None,
    stdin: str = "",
) -> Finished:
    """Run a command to its end; a hang is a failure, and leaves nothing running.

    Args:
        command: as in a shell.
        env: variables over this process's; None takes one away.
        stdin: what it reads.
    """
    process = psutil.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(env),
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(stdin, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        stop(process, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"{command[0]} hangs:\n{output[-4000:]}") from None
    return Finished(process.returncode, output)


def run_forked(
    command: Sequence[str | int | float | Path],
    env: Mapping[str, str | None] | None = None,
) -> Finished:
    """`run` for ``vllm`` or ``vllm-npu``, by `tests.forking`, which spares it importing itself."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "output"
        process = _fork([str(part) for part in command], environment(env), log)
        try:
            code = process.wait(PATIENCE)
        except psutil.TimeoutExpired:
            stop(process, signal.SIGKILL)
            raise AssertionError(f"{command[0]} hangs:\n{_tail(log)}") from None
        return Finished(code, log.read_text(errors="replace"))


@contextmanager
def serve(
    model: str | Path,
    *args: str | int | Path,
    env: Mapping[str, str | None] | None = None,
    log: Path,
    command: Sequence[str | Path] = (VLLM, "serve"),
    forked: bool = False,
) -> Iterator[Server]:
    """A server for `model`, from its first answer to its clean end.

    Args:
        model: a directory.
        args: further arguments of ``vllm serve``.
        env: variables over this process's; None takes one away.
        log: where its output goes.
        command: what the model and the arguments follow.
        forked: start ``vllm serve`` by `tests.forking`, which spares it importing itself.

    Raises:
        RuntimeError: it ended before it answered; the message holds the end of its output.
        AssertionError: it didn't stop, or left a process behind.
    """
    url = f"http://127.0.0.1:{(port := free_port())}"
    whole = [*command, model, "--host", "127.0.0.1", "--port", port, *args]
    start = _fork if forked else _spawn
    process = start([str(part) for part in whole], environment(env), log)
    try:
        _wait_until_healthy(url, process, log)
        yield Server(url, process, log)
    finally:
        left = stop(process, signal.SIGINT)
    assert not left, f"{left} had to be killed:\n{_tail(log)}"


def stop(process: Process, how: signal.Signals) -> list[str]:
    """End a process that has a session of its own, and everything that it started.

    Returns:
        What had to be killed because it didn't end by itself.
    """
    family = _family(process)
    if process.poll() is None:
        process.send_signal(how)
    with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
        process.wait(60)
    _gone, alive = psutil.wait_procs(family, timeout=30)
    left = [_describe(member) for member in alive]
    for member in alive:
        member.kill()
    psutil.wait_procs(alive, timeout=30)
    return left


OF_THE_TESTS = (
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_LOGGING_LEVEL",
)


def environment(changes: Mapping[str, str | None] | None) -> dict[str, str]:
    """This process's environment with changes; None takes a variable away.

    What the tests set for engines in their own process (see `tests.conftest`) stays here.
    """
    ours = dict.fromkeys(OF_THE_TESTS)
    merged = {**os.environ, **ours, **(changes or {})}
    return {name: value for name, value in merged.items() if value is not None}


class Forked(psutil.Process):  # type: ignore[misc]
    """A process of `tests.forking`, as psutil tells of one that it has started."""

    def __init__(self, process: BaseProcess) -> None:
        super().__init__(process.pid)
        self._process = process

    def poll(self) -> int | None:
        """The exit code; None: it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended.

        Raises:
            psutil.TimeoutExpired: it hasn't.
        """
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise psutil.TimeoutExpired(timeout, self.pid)
        return code


def _fork(command: list[str], environment: dict[str, str], log: Path) -> Forked:
    path, *arguments = command
    assert Path(path) in (VLLM, VLLM_NPU), f"{path} can't be forked"
    log.write_bytes(b"")
    given = (Path(path).name, arguments)
    return Forked(forking.process(forking.command, *given, log=log, environment=environment))


def _spawn(command: list[str], environment: dict[str, str], log: Path) -> psutil.Popen:
    with log.open("wb") as file:
        return psutil.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _wait_until_healthy(url: str, process: Process, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    with httpx.Client(trust_env=False, timeout=10) as client:
        while time.monotonic() < end:
            if (code := process.poll()) is not None:
                raise RuntimeError(f"vllm serve ended with code {code}:\n{_tail(log)}")
            try:
                if client.get(f"{url}/health").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
    raise RuntimeError(f"vllm serve doesn't answer:\n{_tail(log)}")


def _family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all in its session, orphans included."""
    members = []
    for member in psutil.process_iter():
        try:
            if os.getsid(member.pid) == process.pid:
                members.append(member)
        except (ProcessLookupError, PermissionError):
            continue
    return members


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({process.name()})"
    except psutil.NoSuchProcess:
        return str(process.pid)


def _tail(log: Path, lines: int = 60) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

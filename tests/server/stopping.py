"""Servers that are ended while they start, and what is left of them.

`python -m tests.server.stopping` ends one after each of many delays, from its first second until
it answers, by each signal, with a forked engine and a spawned one; it takes an hour.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.conftest import DEMO_MODEL
from tests.serving import PATIENCE, VLLM, environment, free_port

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
SHARED = Path("/dev/shm")


@dataclass
class Starting:
    """A server that is about to be ended.

    Attributes:
        process: the API server's.
        port: where it will listen.
        log: its output so far, and that of the engine.
        shared: files in shared memory before.
    """

    process: psutil.Popen
    port: int
    log: Path
    shared: frozenset[Path]

    def says(self, words: str) -> bool:
        """Whether it has said that."""
        return words in self.log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """What is alive of it."""
        found = []
        for member in psutil.process_iter():
            try:
                ours = os.getsid(member.pid) == self.process.pid
                if ours and member.status() != psutil.STATUS_ZOMBIE:
                    found.append(member)
            except (OSError, psutil.NoSuchProcess):
                continue
        return found

    def end(self, how: signal.Signals) -> list[str]:
        """End it; what is left of it when it has had time."""
        self.process.send_signal(how)
        try:
            self.process.wait(PATIENCE / 3)
        except psutil.TimeoutExpired:
            return ["the server goes on"]
        left = []
        try:  # An engine that lives on doesn't hold the port.
            socket.create_server(("127.0.0.1", self.port)).close()
        except OSError as error:
            left.append(f"port {self.port}: {error}")
        psutil.wait_procs(self.family(), timeout=PATIENCE / 5)
        left += [str(member) for member in self.family()]
        boards = (Path(tempfile.gettempdir()) / f"vllm-npu-{os.getuid()}").glob("*.board")
        began = self.process.create_time()
        left += [
            str(board) for board in boards if board.stat().st_mtime > began and _is_left(board)
        ]
        return left

    def kill(self) -> None:
        """End whatever is alive of it."""
        for member in self.family():
            member.kill()
        self.process.wait()


def start(log: Path, method: str | None) -> Starting:
    """A server of the demo model that finds no graph in the cache.

    Args:
        log: where its output goes.
        method: what VLLM_WORKER_MULTIPROC_METHOD says, if anything.
    """
    shared = frozenset(SHARED.iterdir())
    command = [VLLM, "serve", DEMO_MODEL, "--host", "127.0.0.1", "--port", (port := free_port())]
    env = {"VLLM_NPU_DEVICE": "reference", "VLLM_DISABLE_COMPILE_CACHE": "1"}
    with log.open("wb") as file:
        process = psutil.Popen(
            [str(part) for part in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment({**env, "VLLM_WORKER_MULTIPROC_METHOD": method}),
            start_new_session=True,
        )
    return Starting(process, port, log, shared)


def _is_left(board: Path) -> bool:
    """Whether nobody holds it; other tests' engines hold theirs."""
    with board.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def main() -> int:
    """See the module's text. Nothing else that shares memory may start meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=float, default=4.0, help="seconds; default: %(default)s")
    step = parser.parse_args().step
    # A shell makes what it runs in the background ignore this, and servers would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    failures = 0
    with tempfile.TemporaryDirectory() as directory:
        for method, how in itertools.product((None, "spawn"), SIGNALS):
            for index in itertools.count(1):
                server = start(Path(directory) / "log", method)
                time.sleep(index * step)
                answers = server.says("Application startup complete")
                left = server.end(how)
                left += [str(path) for path in set(SHARED.iterdir()) - server.shared]
                failures += bool(left)
                name = f"{method or 'fork'} {how.name} after {index * step:.0f} s"
                print(f"{name}: {', '.join(left) or 'nothing is left'}", flush=True)
                server.kill()
                if answers:
                    break
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())

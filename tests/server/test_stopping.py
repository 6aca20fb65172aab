"""A server that is stopped or killed while it starts leaves no process, no port and no file."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import DEMO_MODEL
from tests.serving import PATIENCE, VLLM, environment, free_port

pytestmark = [pytest.mark.serve, pytest.mark.slow]

STARTING = "Starting to load model"
"""Said by the engine, some seconds before it can answer: its graphs are compiled meanwhile."""
WAYS = {
    "stopped": (signal.SIGTERM, None),
    "killed": (signal.SIGKILL, None),
    "killed, spawned": (signal.SIGKILL, "spawn"),
}


@dataclass
class Starting:
    """A server that is about to be ended."""

    process: psutil.Popen
    port: int
    log: Path

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


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Starting]]:
    """One for each way, started side by side; none finds a graph in the cache."""
    directory = tmp_path_factory.mktemp("stopping")
    started = {}
    for way, (_, method) in WAYS.items():
        port, log = free_port(), directory / f"{way}.log"
        command = [VLLM, "serve", DEMO_MODEL, "--host", "127.0.0.1", "--port", str(port)]
        env = {"VLLM_NPU_DEVICE": "reference", "VLLM_DISABLE_COMPILE_CACHE": "1"}
        with log.open("wb") as file:
            process = psutil.Popen(
                [str(part) for part in command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment({**env, "VLLM_WORKER_MULTIPROC_METHOD": method}),
                start_new_session=True,
            )
        started[way] = Starting(process, port, log)
    yield started
    for each in started.values():
        for member in each.family():
            member.kill()
        each.process.wait()


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_ended_while_it_starts_leaves_nothing(
    servers: dict[str, Starting], way: str
) -> None:
    server = servers[way]
    end = time.monotonic() + PATIENCE
    while STARTING not in server.log.read_text(errors="replace"):
        assert server.process.poll() is None and time.monotonic() < end, server.log.read_text()
        time.sleep(0.1)
    server.process.send_signal(WAYS[way][0])
    server.process.wait(PATIENCE)
    socket.create_server(("127.0.0.1", server.port)).close()  # the engine doesn't hold it
    psutil.wait_procs(server.family(), timeout=PATIENCE / 5)
    assert not server.family(), server.log.read_text()
    boards = (Path(tempfile.gettempdir()) / f"vllm-npu-{os.getuid()}").glob("*.board")
    began = server.process.create_time()
    assert not [board for board in boards if board.stat().st_mtime > began and _is_left(board)]


def _is_left(board: Path) -> bool:
    """Whether nobody holds it; other tests' engines hold theirs."""
    with board.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True

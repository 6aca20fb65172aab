"""An engine's process ends with its parent, and at a stop while it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest

from vllm_npu_platform.processes.lifetime import stop_at_sigterm, stop_request

PARENT = """
import multiprocessing, os, signal, sys, time
from vllm_npu_platform.processes import lifetime, start_method
lifetime.GRACE_SECONDS = 0.5

def child(stubborn, path):
    lifetime.GRACE_SECONDS = 0.5
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(path, "w").close()
    lifetime.take_away_at_end(__import__("pathlib").Path(path))
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    process = start_method._Context().Process(target=child, args=(STUBBORN, "left.board"))
    process.start()
    time.sleep(600)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("stubborn", [False, True], ids=["willing", "stubborn"])
def test_a_process_ends_when_its_parent_was_killed(
    script: Callable[..., subprocess.Popen[str]], tmp_path, method: str, stubborn: bool
) -> None:
    source = PARENT.replace("STUBBORN", str(stubborn))
    parent = script(source, VLLM_WORKER_MULTIPROC_METHOD=method)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    if stubborn:  # a process that ends by the signal alone can't take anything away
        assert not (tmp_path / "left.board").exists()


def test_a_stop_is_honoured_between_steps_and_still_reaches_its_handler() -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("vLLM's"))
    try:
        with pytest.raises(SystemExit) as end, stop_request() as stop:
            stop.check()
            os.kill(os.getpid(), signal.SIGTERM)
            stop.check()
        assert end.value.code == 128 + signal.SIGTERM
        assert seen == ["vLLM's"]
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ["vLLM's"] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_stop_that_nobody_handles_is_honoured_at_once() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit), stop_request():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_ends_a_server_that_waits_for_its_engine() -> None:
    """vLLM's handler for that time raises what a part of it drops."""

    def of_vllm(*_: object) -> None:
        raise KeyboardInterrupt

    of_vllm.__module__ = "vllm.entrypoints.launchers.api_server.entry"
    before = signal.signal(signal.SIGTERM, of_vllm)
    try:
        stop_at_sigterm()
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        assert end.value.code == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_of_the_users_own_is_left_alone() -> None:
    def own(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        stop_at_sigterm()
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)

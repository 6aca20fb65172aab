"""A process is forked only where nothing would be lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_npu_platform.processes import quiet

Output = Callable[..., str]
SHOW = "from vllm_npu_platform.processes.quiet import obstacles\nprint(obstacles())\n"


def test_a_plain_process_can_be_forked(output: Output) -> None:
    assert output(SHOW) == "[]"


def test_a_thread_of_python_would_be_lost(output: Output) -> None:
    source = """
import threading
threading.Thread(target=threading.Event().wait, name="my-worker", daemon=True).start()
"""
    assert output(source + SHOW) == """["thread 'my-worker'"]"""


def test_a_native_thread_would_be_lost(output: Output) -> None:
    source = """
import ctypes
libc = ctypes.CDLL(None)
thread = ctypes.c_ulong()
libc.pthread_create(ctypes.byref(thread), None, ctypes.cast(libc.sleep, ctypes.c_void_p), 100)
"""
    assert "thread" in output(source + SHOW + "import os\nos._exit(0)")


def test_threads_of_zeromq_are_harmless(output: Output) -> None:
    source = "import zmq\nsocket = zmq.Context(io_threads=2).socket(zmq.PULL)\n"
    assert output(source + SHOW) == "[]"


def test_pools_of_openmp_and_openblas_end_before_a_fork_and_come_back(output: Output) -> None:
    """Both sides compute afterwards, which would hang if a lost pool were waited for."""
    source = """
import os
import numpy, torch
from vllm_npu_platform.processes.quiet import obstacles
def compute():
    ones, plain = torch.ones(512, 512), numpy.ones((512, 512))
    return float((ones @ ones).sum()), float((plain @ plain).sum())
wanted = compute()
assert obstacles() == []
child = os.fork()
if child == 0:
    os._exit(0 if compute() == wanted else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert compute() == wanted
print("same")
"""
    assert output(source) == "same"


def test_a_device_that_was_opened_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, target in enumerate(
        ["/dev/null", "/dev/pts/3", "socket:[7]", "/dev/shm/a (deleted)", "/dev/accel/accel0"]
    ):
        (tmp_path / str(number)).symlink_to(target)
    monkeypatch.setattr(quiet, "_DESCRIPTORS", tmp_path)
    assert "open device /dev/accel/accel0" in quiet.obstacles()
    assert not any("null" in each or "shm" in each for each in quiet.obstacles())

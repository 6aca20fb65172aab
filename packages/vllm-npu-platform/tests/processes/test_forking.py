"""A forked process holds nothing of its parent's but memory, and what it was given."""

from __future__ import annotations

from collections.abc import Callable

PROCESS = """
import os, signal, socket, sys
from multiprocessing import Pipe
from multiprocessing.process import BaseProcess
from vllm_npu_platform.processes import forking

class Process(BaseProcess):
    _start_method = None
    @staticmethod
    def _Popen(process):
        return forking.Popen(process)
"""


def test_descriptors_and_handlers_of_the_parent_are_gone(output: Callable[..., str]) -> None:
    source = """
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
log = open("log", "a")
signal.signal(signal.SIGTERM, lambda *_: print("of the parent"))
waking, woken = socket.socketpair()
waking.setblocking(False)
signal.set_wakeup_fd(waking.fileno())
given, kept = Pipe()

def child(connection):
    links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in map(int, os.listdir("/proc/self/fd"))
             if os.path.exists(f"/proc/self/fd/{fd}")}
    own = {0, 1, 2, connection.fileno()}
    print(sum(link.startswith("socket:") for fd, link in links.items() if fd not in own))
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, signal.set_wakeup_fd(-1), flush=True)
    print("written", file=log, flush=True)
    connection.send("hello")
    connection.recv()

process = Process(target=child, args=(given,))
process.start()
print(kept.recv())
listener.close()
socket.create_server(("127.0.0.1", port)).close()
kept.send("end")
process.join()
print(process.exitcode, open("log").read().strip())
"""
    assert output(PROCESS + source).split() == ["0", "True", "-1", "hello", "0", "written"]


def test_arguments_that_cannot_be_pickled_keep_what_they_hold(output: Callable[..., str]) -> None:
    source = """
reading, writing = os.pipe()
process = Process(target=lambda: os.write(writing, b"through the pipe"))
process.start()
process.join()
print(os.read(reading, 100).decode())
"""
    assert output(PROCESS + source) == "through the pipe"


def test_the_parent_learns_how_it_ended(output: Callable[..., str]) -> None:
    source = """
for target in (lambda: sys.exit(3), lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: None):
    process = Process(target=target)
    process.start()
    process.join()
    print(process.exitcode)
"""
    assert output(PROCESS + source).split() == ["3", "-9", "0"]

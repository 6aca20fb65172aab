"""Whether this process can be forked: what a fork would lose, or share and spoil.

A fork takes along memory and descriptors, but of all threads only the calling one. A pool of
native threads is then waited for forever, and a device that was opened is used by two processes.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_TASKS = Path("/proc/self/task")
_DESCRIPTORS = Path("/proc/self/fd")
# ZeroMQ's belong to a context, and the child makes a context of its own.
_HARMLESS_NATIVE = re.compile(r"ZMQbg/")
# Of vLLM's client. They wait in a poll, and nothing that they hold is used by an engine.
_HARMLESS_PYTHON = frozenset({"EngineCoreOutputQueueThread", "MPClientEngineMonitor"})
_OPENMP = re.compile(r"/lib(?:gomp|iomp5|omp)\b[^/]*\.so[^/]*$")
_PAUSE_HARD = 2  # omp_pause_hard of OpenMP 5.0, section 3.2.44
_PLAIN_DEVICES = re.compile(
    r"/dev/(?:null|zero|full|u?random|tty\w*|console|ptmx|pts/.*|shm/.*|mqueue/.*)(?: \(deleted\))?"
)
_NAMING_SECONDS = 0.5


def obstacles() -> list[str]:
    """Why a fork of this process wouldn't be safe, for people; empty if it is.

    Pools that come back by themselves are ended first: OpenMP's by `omp_pause_resource_all`, and
    OpenBLAS's by its own handler, which runs at any fork.
    """
    if not _TASKS.exists():
        return ["this system doesn't list a process's threads"]
    if _foreign_threads():
        _pause_openmp()
    if _foreign_threads():
        _fork_and_forget()
    end = time.monotonic() + _NAMING_SECONDS
    # A thread that has just begun hasn't named itself yet.
    while (threads := _foreign_threads()) and time.monotonic() < end:
        time.sleep(0.01)
    return [f"thread {name}" for name in threads] + [f"open device {d}" for d in _devices()]


def _foreign_threads() -> list[str]:
    """Names of threads beside the calling one that a fork would lose."""
    python = {each.native_id: each.name for each in threading.enumerate()}
    found = []
    for number, name in _native_threads():
        if number == threading.get_native_id() or _HARMLESS_NATIVE.match(name):
            continue
        if python.get(number) in _HARMLESS_PYTHON:
            continue
        found.append(f"'{python.get(number, name)}'")
    return sorted(found)


def _native_threads() -> Iterator[tuple[int, str]]:
    for task in _TASKS.iterdir():
        try:
            yield int(task.name), (task / "comm").read_text().strip()
        except OSError:
            continue  # it has ended


def _devices() -> list[str]:
    found = set()
    for descriptor in _DESCRIPTORS.iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("/dev/") and not _PLAIN_DEVICES.fullmatch(target):
            found.add(target)
    return sorted(found)


def _pause_openmp() -> None:
    """End the teams of every OpenMP runtime here; the next parallel loop makes new ones."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    for path in sorted({match[0] for line in lines if (match := re.search(r"/\S*$", line))}):
        if not _OPENMP.search(path):
            continue
        try:
            pause = ctypes.CDLL(path, os.RTLD_NOLOAD | os.RTLD_NOW).omp_pause_resource_all
        except (OSError, AttributeError):  # one that is too old for it
            continue
        pause(_PAUSE_HARD)


def _fork_and_forget() -> None:
    """Fork a child that ends at once, for the handlers that libraries have run before a fork."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

"""Processes that share a directory keep its limit together, and what a dead one left goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock

from .blocks import ON_DISK, content, key, space
from .test_directory import files, holds, open_store

# Writes and reads blocks until it is told to stop, and says what it counted.
ENGINE = """
import sys, time
from pathlib import Path
from {tests}.blocks import content, key, space
from {tests}.test_directory import holds, open_store
root, first, blocks, seconds = Path(sys.argv[1]), *map(int, sys.argv[2:])
store = open_store(root, blocks=blocks)
end, number = time.monotonic() + seconds, first
while time.monotonic() < end:
    number += 1
    store.write(key(number % 40), content(number % 40))
    holds(store, number * 7 % 40)
print(sorted({{event.value for event, _ in store.tally.take()}}))
"""

# Stops in the middle of writing a block.
STUCK = """
import os, sys, time
from pathlib import Path
from {tests}.blocks import content, key
from {tests}.test_directory import open_store
writev = os.writev
def halfway(file, pieces):
    writev(file, pieces[:1])
    print("halfway", flush=True)
    time.sleep(60)
os.writev = halfway
open_store(Path(sys.argv[1]), blocks=3).write(key(1), content(1))
"""


def _start(script: str, *values: object) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", script.format(tests=here.name), *map(str, values)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_keep_the_limit_together(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    engines = [_start(ENGINE, root, first, 12, 3) for first in (0, 20)]
    most = 0
    while any(engine.poll() is None for engine in engines):
        if root.is_dir():
            with FileLock(root / "lock"):  # so that nothing goes or comes while it is counted
                walk = [files for _, _, files in os.walk(root / "v1")]
            most = max(most, sum(len(files) for files in walk))
        time.sleep(0.005)
    assert [engine.communicate()[0].strip() for engine in engines] == ["['evicted']"] * 2
    assert [engine.returncode for engine in engines] == [0, 0]
    assert 6 < most <= 12
    store = open_store(root, blocks=12)
    assert sum(holds(store, number) for number in range(40)) == len(files(root))


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    engine = _start(STUCK, root)
    assert engine.stdout is not None
    assert engine.stdout.readline() == "halfway\n"
    # While it lives its file is its own, and counts.
    store = open_store(root, blocks=3)
    for number in (2, 3, 4):
        store.write(key(number), content(number))
    assert store.kept_bytes() == 3 * ON_DISK
    assert len(files(root)) == 2
    assert len(list((root / "writing").iterdir())) == 1
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    engine.stdout.close()
    store.write(key(5), content(5))
    assert not list((root / "writing").iterdir())
    assert len(files(root)) == 3
    assert store.kept_bytes() == 3 * ON_DISK
    assert store.contains([key(1)]) == [False]


def test_a_reader_is_not_disturbed_by_eviction(tmp_path: Path) -> None:
    """As the file stays while it is open."""
    store, other = open_store(tmp_path / "kv", blocks=1), open_store(tmp_path / "kv", blocks=1)
    store.write(key(1), content(1))
    readv = os.readv

    def meanwhile(file, pieces) -> int:  # type: ignore[no-untyped-def]
        os.readv = readv
        other.write(key(2), content(2))
        return readv(file, pieces)

    os.readv = meanwhile
    try:
        into = space()
        store.read(key(1), into)
    finally:
        os.readv = readv
    assert into == content(1)
    assert store.contains([key(1), key(2)]) == [False, True]

"""Counters shared between the worker, which writes, and the API server, which reads.

vLLM carries its own statistics between the processes in a fixed structure. Ours travel in a
small memory-mapped file: a JSON header that names the counters, then one float64 each. Writing
one costs no system call, so it may happen in every step.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vllm.config import VllmConfig

HEADER_BYTES = 16384


def board_path(vllm_config: VllmConfig) -> Path:
    """Where an engine's board lies: in a directory that belongs to the user alone.

    Raises:
        OSError: the directory can't be made, or belongs to someone else.
    """
    directory = Path(tempfile.gettempdir()) / f"vllm-npu-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"{directory} is not a directory of this user.")
    engine = vllm_config.parallel_config.data_parallel_index
    return directory / f"{vllm_config.instance_id}-{engine}.board"


class BoardWriter:
    """The worker's side."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        header = json.dumps(list(names)).encode()
        if len(header) > HEADER_BYTES:
            raise ValueError(f"{len(names)} counters don't fit into a header of {HEADER_BYTES} B.")
        self._path = path
        self._index = {name: position for position, name in enumerate(names)}
        sweep(path.parent)
        body = np.zeros(len(names), dtype=np.float64).tobytes()
        draft = path.with_suffix(".draft")
        self._file = draft.open("wb")  # open as long as this process lives, with the lock
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(header.ljust(HEADER_BYTES) + body)
        self._file.flush()
        draft.rename(path)  # A reader sees the whole file or none.
        self._values = np.memmap(path, np.float64, "r+", HEADER_BYTES, (len(names),))

    def add(self, name: str, amount: float = 1.0) -> None:
        """Count."""
        self._values[self._index[name]] += amount

    def close(self) -> None:
        """Take the board away."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def sweep(directory: Path) -> None:
    """Take away boards of workers that were killed: nobody holds their locks."""
    for path in directory.glob("*.board"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def take_away_at_end(vllm_config: VllmConfig) -> None:
    """Have this process take away, when it ends, the boards of its engines, finished or not.

    A server that stops kills an engine that doesn't end at once, as one that starts may not.
    """
    with suppress(OSError):  # The worker meets the same, and warns.
        path = board_path(vllm_config)
        # Below 0: once the child processes have ended.
        arguments = (path.parent, vllm_config.instance_id)
        util.Finalize(None, _take_away, args=arguments, exitpriority=-1)


def _take_away(directory: Path, instance: str) -> None:
    for path in directory.glob(f"{instance}-*"):
        path.unlink(missing_ok=True)


class BoardReader:
    """The API server's side; the board may not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: list[str] = []
        self._values: np.ndarray | None = None

    def read(self) -> dict[str, float]:
        """All counters by name; empty as long as there is no board."""
        if self._values is None and not self._open():
            return {}
        assert self._values is not None
        return dict(zip(self._names, self._values.tolist(), strict=True))

    def _open(self) -> bool:
        try:
            with self._path.open("rb") as file:
                self._names = json.loads(file.read(HEADER_BYTES))
            shape = (len(self._names),)
            self._values = np.memmap(self._path, np.float64, "r", HEADER_BYTES, shape)
        except (FileNotFoundError, ValueError):
            return False
        return True

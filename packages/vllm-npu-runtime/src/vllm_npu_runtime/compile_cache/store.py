"""The cache of one configuration: its graphs, each in a directory of its own.

``<root>/<digest>/key.json`` says what the graphs depend on, in clear; beside it are the graphs'
directories and locks. A directory appears whole, by a rename, or not at all.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from vllm_npu_runtime import __version__
from vllm_npu_runtime.compile_cache.key import CacheKey
from vllm_npu_runtime.compile_cache.manifest import NAME, Damaged, Manifest
from vllm_npu_runtime.errors import NPUError
from vllm_npu_runtime.program import Program

_logger = logging.getLogger("vllm.npu")

KEY = "key.json"
TEMPORARY = ".new-"


@dataclass(frozen=True)
class Saved:
    """A graph that an earlier start compiled; its files are verified.

    Attributes:
        directory: with the driver's files.
        program: without graph and weights.
    """

    directory: Path
    program: Program


class CompileCache:
    """The graphs of one configuration.

    Nothing here raises for the state of the disk: without a cache a start is slower, not wrong.
    Every problem is one line in the log.

    Args:
        root: of all configurations' graphs.
        key: what these depend on.
    """

    def __init__(self, root: Path, key: CacheKey) -> None:
        self.directory = root / key.digest
        self._key = key
        self._writable = True

    def find(self, name: str) -> Saved | None:
        """The graph of that name, if it is there and undamaged. A damaged one is removed."""
        path = self._path(name)
        try:
            if not path.exists():
                return None
            saved = Saved(path, Manifest.read(path).restored())
            self._touch()
        except Damaged as damage:
            self.discard(name, str(damage))
            return None
        except OSError as error:
            _logger.warning("%s can't be read (%s): it is compiled anew.", path, _why(error))
            return None
        return saved

    def discard(self, name: str, why: str) -> None:
        """Remove a graph that turned out to be of no use, and say so.

        Args:
            name: of the graph.
            why: for the log, as in "model.xml is missing".
        """
        path = self._path(name)
        _logger.warning("%s is of no use, as %s: it is compiled anew.", path, why)
        shutil.rmtree(path, ignore_errors=True)

    def save(self, name: str, program: Program, write: Callable[[Path], bool]) -> bool:
        """Keep a graph.

        Args:
            name: of the graph.
            program: what was compiled.
            write: writes the driver's files into an empty directory, or says no.

        Returns:
            Whether it is kept.
        """
        if not self._writable:
            return False
        fresh: Path | None = None
        try:
            self._prepare()
            fresh = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.directory))
            if not write(fresh):
                return False
            manifest = Manifest.of(program, fresh)
            (fresh / NAME).write_text(manifest.model_dump_json(indent=1))
            for path in fresh.rglob("*"):
                _flush(path)
            final = self._path(name)
            shutil.rmtree(final, ignore_errors=True)
            fresh.rename(final)
            return True
        except (OSError, NPUError) as error:
            self._writable = False
            _logger.warning(
                "Compiled graphs can't be kept in %s (%s): every start compiles them.",
                self.directory,
                _why(error),
            )
            return False
        finally:
            if fresh is not None:
                shutil.rmtree(fresh, ignore_errors=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Let one process compile a graph, while others wait for its result.

        Where the directory can't be written there is no lock, and each compiles for itself.
        """
        lock = FileLock(self._path(name).with_suffix(".lock"))
        try:
            self._prepare()
            try:
                lock.acquire(timeout=1)
            except Timeout:
                _logger.info("Waiting for another engine that is compiling %s", name)
                begin = time.monotonic()
                lock.acquire()
                _logger.info("It took %.0f s", time.monotonic() - begin)
        except OSError:
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def _path(self, name: str) -> Path:
        # The checksum tells names apart that differ in what a file's name can't hold.
        plain = re.sub(r"[^A-Za-z0-9=_-]", "_", name)[:80]
        return self.directory / f"{plain}-{zlib.crc32(name.encode()):08x}"

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / KEY
        if not path.exists():
            about = {"suite": __version__, "created": time.time(), "parts": self._key.parts}
            descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=self.directory)
            with os.fdopen(descriptor, "w") as file:
                json.dump(about, file, indent=1)
            os.replace(temporary, path)

    def _touch(self) -> None:
        """Note when it was last used; a read-only cache can't say."""
        try:
            os.utime(self.directory / KEY)
        except OSError:
            pass


def _flush(path: Path) -> None:
    """Bring a file to the disk before its directory gets its name."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _why(error: Exception) -> str:
    """The reason alone: the path is in the message already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

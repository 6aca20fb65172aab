"""The graphs of one configuration: found, or compiled once and saved.

Nothing here stops an engine. Where the cache can't be read or written, or what it holds is
damaged, one line says so and the graph is compiled.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_npu_runtime.compile_cache import names
from vllm_npu_runtime.compile_cache.files import delete, move_into_place, set_aside, write_whole
from vllm_npu_runtime.compile_cache.key import KEY_FILE, CacheKey, KeyRecord
from vllm_npu_runtime.compile_cache.locking import locked
from vllm_npu_runtime.compile_cache.manifest import seal
from vllm_npu_runtime.compile_cache.records import DamagedError, one_line, read, reason_of
from vllm_npu_runtime.compile_cache.saved import Saved

if TYPE_CHECKING:
    from vllm_npu_runtime.program import Program

_logger = logging.getLogger("vllm.npu")


class CompileCache:
    """The compiled graphs of one configuration. `find` and `save` belong under the graph's `lock`.

    Args:
        root: of the cache; see `cache_directory`.
        key: of the configuration.

    Attributes:
        directory: where its graphs are.
    """

    def __init__(self, root: Path, key: CacheKey) -> None:
        self.directory = root / key.digest
        self._key = key
        self._readable = True
        self._writable = True

    def find(self, name: str) -> Saved | None:
        """The graph of that name, if it is there and whole. A damaged one is removed.

        Args:
            name: unique in the configuration, as in "tokens=64".
        """
        try:
            saved = Saved.at(self._path(name))
        except FileNotFoundError:
            return None
        except DamagedError as error:
            self.discard(name, str(error))
            return None
        except OSError as error:
            if self._readable:
                _logger.warning(
                    "The compile cache %s can't be read: %s. Graphs are compiled anew.",
                    error.filename or self.directory,
                    reason_of(error),
                )
            self._readable = False
            return None
        with suppress(OSError):
            os.utime(self.directory / KEY_FILE)  # when it was last used
        return saved

    def save(self, name: str, program: Program, write: Callable[[Path], bool]) -> bool:
        """Save a graph, in place of an older one of that name.

        After a failure, of which a line tells, this object writes nothing more.

        Args:
            name: as for `find`.
            program: what was compiled.
            write: writes files into an empty directory; False if there is nothing to save.

        Returns:
            Whether it is saved.
        """
        if not self._writable:
            return False
        final = self._path(name)
        temporary = names.beside(final)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            if not write(temporary):
                return False
            seal(temporary, name, program)
            self._write_key()
            move_into_place(temporary, final)
        # Every NPUError is a RuntimeError; runtimes of vendors raise others when a disk is full.
        except (OSError, RuntimeError) as error:
            self._writable = False
            _logger.warning(
                "The compile cache %s can't be written: %s. Graphs are compiled at every start.",
                self.directory,
                reason_of(error),
            )
            return False
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True

    def discard(self, name: str, problem: str) -> None:
        """Remove a graph that is of no use, and say why.

        Args:
            name: as for `find`.
            problem: what is wrong with it.
        """
        path = self._path(name)
        _logger.warning(
            "The compiled graph %s is discarded: %s. It is compiled anew.",
            path,
            one_line(problem).rstrip("."),
        )
        with suppress(OSError):
            delete(set_aside(path))

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keep other engines from compiling a graph while this one does. They wait here.

        Where the directory can't be written there is no lock, and no error.

        Args:
            name: as for `find`.
        """
        path = self._path(name)

        def waiting() -> None:
            _logger.info("Another engine is compiling '%s' (%s); waiting for it.", name, path)

        with locked(path.with_name(f"{path.name}.lock"), waiting) as held:
            if held:
                self._sweep(path.name)
            yield

    def _path(self, name: str) -> Path:
        return self.directory / names.file_name(name)

    def _sweep(self, name: str) -> None:
        """Delete what an engine left behind that died while it wrote this graph."""
        with suppress(OSError):
            for found in os.listdir(self.directory):
                if names.belongs_to(found, name):
                    delete(self.directory / found)

    def _write_key(self) -> None:
        path = self.directory / KEY_FILE
        try:
            read(path, KeyRecord)
        except DamagedError:
            record = KeyRecord.of(self._key)
            write_whole(path, record.model_dump_json(indent=1).encode())

"""Directories of files: what is in one, and changing one so that others see all or nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from vllm_npu_runtime.compile_cache.names import beside, passing
from vllm_npu_runtime.compile_cache.records import DamagedError, one_line

_IN_THE_WAY = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_ATTEMPTS = 3


def sizes_of(directory: Path) -> dict[str, int]:
    """Bytes of every file in it and below, by its path within.

    Raises:
        DamagedError: it is, or has within, anything but directories and regular files.
        OSError: something can't be read.
    """
    if directory.is_symlink() or not directory.is_dir():
        directory.lstat()  # so that one that isn't there is FileNotFoundError
        raise DamagedError("it is not a directory")
    found = {}
    pending = [directory]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                elif entry.is_file(follow_symlinks=False):
                    found[path.relative_to(directory).as_posix()] = entry.stat().st_size
                else:
                    within = one_line(str(path.relative_to(directory)))
                    raise DamagedError(f"'{within}' is not a regular file")
    return found


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or a directory's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(directory: Path) -> None:
    """The same for everything in a directory, and the directory."""
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def write_whole(path: Path, text: bytes) -> None:
    """Write a file; readers see the old one or the new one.

    Raises:
        OSError: it can't be written; nothing is left behind.
    """
    temporary = passing(path.parent)
    try:
        temporary.write_bytes(text)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(directory: Path, final: Path) -> None:
    """Rename a directory, in place of whatever has the name.

    Raises:
        OSError: it can't be.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            directory.rename(final)
            break
        except OSError as error:
            if error.errno not in _IN_THE_WAY or attempt == _ATTEMPTS:
                raise
        with suppress(FileNotFoundError):
            aside = set_aside(final)
            with suppress(OSError):  # the new one matters; this is swept up later
                delete(aside)
    sync(final.parent)


def set_aside(path: Path) -> Path:
    """Take away a directory's name, for everyone at once; its new path.

    Raises:
        OSError: it can't be.
    """
    aside = beside(path)
    path.rename(aside)
    return aside


def delete(path: Path) -> None:
    """Delete a directory with all that is in it, or a file, or a link but not what it leads to.

    Raises:
        OSError: something can't be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()

"""Writing an artifact so that others see all of it or nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_npu_runtime.artifact.checking import read_manifest
from vllm_npu_runtime.artifact.manifest import FileRecord, Manifest
from vllm_npu_runtime.artifact.names import MANIFEST
from vllm_npu_runtime.compile_cache.files import checksum, delete, move_into_place, sync_all
from vllm_npu_runtime.compile_cache.names import beside
from vllm_npu_runtime.doctor.sizes import in_words
from vllm_npu_runtime.errors import ConfigurationError


def check_target(directory: Path, force: bool) -> None:
    """Refuse a directory that an artifact can't be written to.

    Args:
        directory: that shall hold it.
        force: an artifact, or an empty directory, may be replaced.

    Raises:
        ConfigurationError: something is there that must stay.
    """
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ConfigurationError(
            f"{directory} is a link or a file. Name a directory that doesn't exist yet."
        )
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not force:
        raise ConfigurationError(
            f"{directory} exists already. Name another directory, or replace it with --force."
        )
    try:
        read_manifest(directory)
    except ConfigurationError:
        if not (directory / MANIFEST).is_file():  # a damaged artifact may go, a home may not
            raise ConfigurationError(
                f"{directory} holds no artifact, so --force doesn't replace it. "
                "Name another directory, or delete this one."
            ) from None


@contextmanager
def staged(directory: Path, force: bool = False) -> Iterator[Path]:
    """A new directory that takes the place of `directory` when the block ends.

    Until then it lies beside it under another name, on the same disk. If the block fails, it is
    deleted.

    Raises:
        ConfigurationError: see `check_target`; or the disk is full or can't be written.
    """
    check_target(directory, force)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        stage = beside(directory)
        stage.mkdir()
    except OSError as error:
        raise _unwritable(directory, error) from error
    try:
        yield stage
        sync_all(stage)
        check_target(directory, force)  # time has passed
        move_into_place(stage, directory)
    except OSError as error:
        raise _unwritable(directory, error) from error
    finally:
        if stage.exists():
            delete(stage)


def check_space(directory: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        directory: that shall hold it; it, or the nearest parent, exists.
        needed: bytes.

    Raises:
        ConfigurationError: says how many there are.
    """
    where = next(path for path in (directory, *directory.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(where).free
    if free < needed:
        raise ConfigurationError(
            f"The artifact takes {in_words(needed)}, and the disk of {directory} has "
            f"{in_words(free)} left. Free some, or write to another disk."
        )


def records_of(
    directory: Path, done: Callable[[int], object] = lambda size: None
) -> dict[str, FileRecord]:
    """Sizes and checksums of the files in a directory, by path.

    Args:
        directory: with regular files only.
        done: called with the bytes of each file that was read.
    """
    found = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = path.relative_to(directory).as_posix()
        found[name] = FileRecord(size=path.stat().st_size, sha256=checksum(path))
        done(found[name].size)
    return found


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `npu_artifact.json`, last of all files."""
    text = manifest.model_dump_json(indent=2) + "\n"
    (directory / MANIFEST).write_text(text, encoding="utf-8")


def _unwritable(directory: Path, error: OSError) -> ConfigurationError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConfigurationError(
            f"The disk of {directory} is full ({os.strerror(error.errno)}); nothing was left "
            "there. Free some space, or write to another disk."
        )
    return ConfigurationError(
        f"{directory} can't be written: {error.strerror or error}. Nothing was left there."
    )

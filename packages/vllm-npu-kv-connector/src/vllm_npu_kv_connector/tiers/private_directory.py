"""Directories that belong to the user alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vllm_npu_runtime.errors import ConfigurationError

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def claim(root: Path) -> None:
    """Make sure that a directory is there, and that nobody else can put files into it.

    Args:
        root: the directory; made, with its parents, if it isn't there.

    Raises:
        ConfigurationError: it can't be made or isn't a directory, somebody else owns it or may
            write to it, or the user can't.
    """
    try:
        make(root)
        status = root.stat()
    except (FileExistsError, NotADirectoryError):
        raise ConfigurationError(
            f"root_dir='{root}': it, or something above it, is not a directory. Name a directory, "
            "or a path where one can be made."
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"root_dir='{root}': can't be made ({error.strerror}). Name a directory that the user "
            "of the engine can write to."
        ) from error
    problem = _danger(status)
    if problem:
        raise ConfigurationError(f"root_dir='{root}': {problem}")
    try:
        _try_to_write(root)
    except OSError as error:
        raise ConfigurationError(
            f"root_dir='{root}': can't be written to ({error.strerror}). Name a directory that the "
            "user of the engine can write to, on a file system that is not mounted read-only."
        ) from error


def make(directory: Path) -> None:
    """Make a directory, and those above it, that only the user may enter.

    Raises:
        FileExistsError: it is there and isn't a directory.
        OSError: it can't be made.
    """
    if not directory.is_dir():
        if directory.parent != directory:
            make(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _danger(status: os.stat_result) -> str | None:
    user = os.geteuid()
    if status.st_uid != user:
        return (
            f"belongs to user {status.st_uid}, who could change what is kept in it; the engine "
            f"runs as user {user}. Name a directory of that user's, or give it to them "
            f"(chown {user})."
        )
    if status.st_mode & _OTHERS_MAY_WRITE:
        return (
            f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o}), and so change what "
            "is kept in it. Name a directory of the engine's own, or take that right away "
            "(chmod go-w)."
        )
    return None


def _try_to_write(root: Path) -> None:
    trial = root / f".trial-{os.getpid()}"
    descriptor = os.open(trial, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    trial.unlink()

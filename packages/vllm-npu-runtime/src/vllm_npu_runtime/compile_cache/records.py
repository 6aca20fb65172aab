"""JSON files that are read back: of bounded size and known fields, or not at all."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from vllm_npu_runtime.errors import NPUError

LARGEST = 16 * 2**20
"""Bytes; some hundred thousand weights."""
LONGEST = 300


class DamagedError(NPUError):
    """What lies in the compile cache is not what was saved there."""


class Record(BaseModel):
    """What a file holds; it holds nothing else, and converts nothing."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


Kept = TypeVar("Kept", bound=BaseModel)


def read(path: Path, model: type[Kept]) -> Kept:
    """What a file holds.

    Raises:
        DamagedError: not a file of that model.
        OSError: it can't be read.
    """
    return parse(path.name, read_text(path), model)


def read_text(path: Path) -> bytes:
    """The bytes of a file, if they aren't too many.

    Raises:
        DamagedError: missing, a link, a pipe or a device, or absurdly large.
        OSError: it can't be read.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise DamagedError(f"{path.name} is missing") from None
    if not stat.S_ISREG(found.st_mode):
        raise DamagedError(f"{path.name} is not a regular file")
    if found.st_size > LARGEST:
        raise DamagedError(f"{path.name} has {found.st_size} bytes; {LARGEST} is the most")
    return path.read_bytes()


def parse(name: str, text: bytes, model: type[Kept]) -> Kept:
    """What JSON says, by the name of its file.

    Raises:
        DamagedError: it isn't JSON, or not of that model.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DamagedError(
            f"{name}{f', {where}' if where else ''}: {one_line(first['msg'])}"
        ) from None


def one_line(text: str) -> str:
    """Text for a line of a log or table: no line breaks, no control characters, not endless."""
    words = " ".join(text.split())
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in words)
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def reason_of(error: Exception) -> str:
    """Why something failed, as part of a line; no full stop."""
    text = error.strerror if isinstance(error, OSError) else None
    return one_line(text or str(error) or type(error).__name__).rstrip(".")

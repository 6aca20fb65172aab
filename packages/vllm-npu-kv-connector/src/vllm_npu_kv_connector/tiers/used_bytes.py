"""A number in a file, that processes share."""

from __future__ import annotations

import os
import struct
from pathlib import Path

_FORMAT = struct.Struct("<QQ")  # the number, and all its bits turned over
_ALL_BITS = (1 << 64) - 1


class UsedBytes:
    """How many bytes are taken. Whoever changes it holds a lock; reading needs none.

    The file is opened each time, since somebody may delete it while engines run.
    """

    def __init__(self, path: Path) -> None:
        """Name the file, which need not be there."""
        self._path = path

    def read(self) -> int | None:
        """The number; None if there is none, or it is damaged.

        Raises:
            OSError: the file can't be read.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            data = os.read(descriptor, _FORMAT.size)
        finally:
            os.close(descriptor)
        if len(data) != _FORMAT.size:
            return None
        number, turned = _FORMAT.unpack(data)
        return number if number ^ turned == _ALL_BITS else None

    def write(self, number: int) -> None:
        """Set the number.

        Raises:
            OSError: the file can't be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.pwrite(descriptor, _FORMAT.pack(number, number ^ _ALL_BITS), 0)
        finally:
            os.close(descriptor)

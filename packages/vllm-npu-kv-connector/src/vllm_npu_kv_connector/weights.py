"""A fingerprint of a checkpoint's weights: every number counts.

A re-merged layer or a patched tensor makes KV of before wrong, so all bytes are read. What was
read once is remembered with the file's inode and times, and isn't read again until they change.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import xxhash

_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_PIECE = 8 << 20


def fingerprint(directory: Path, remembered: Path | None = None) -> str | None:
    """Digest of each weight file's name, size and content.

    Times and paths don't enter: a copy on another machine has the same fingerprint.

    Args:
        directory: a local checkpoint.
        remembered: directory of what was read before; None: everything is read. One that can't
            be read or written, or is damaged, costs time alone.

    Returns:
        Hexadecimal, or None if `directory` is none or has no weights.
    """
    files = sorted(
        path for pattern in _PATTERNS for path in directory.glob(pattern) if path.is_file()
    )
    if not files:
        return None
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
    record = None if remembered is None else remembered / f"{name}.json"
    known = _read(record)
    digests, whole = {}, hashlib.sha256()
    for path in files:
        stamp = _stamp(path)
        digest = known.get(stamp) or _digest(path)
        digests[stamp] = digest
        whole.update(f"{path.name} {path.stat().st_size} {digest}\n".encode())
    if record is not None and digests != known:
        _write(record, digests)
    return whole.hexdigest()


def _digest(path: Path) -> str:
    """XXH3 of a file's content, 128 bits."""
    hashing, piece = xxhash.xxh3_128(), bytearray(_PIECE)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            hashing.update(memoryview(piece)[:count])
    return hashing.hexdigest()


def _stamp(path: Path) -> str:
    """What changes whenever a file's content does: nobody sets an inode's time of change."""
    status = path.stat()
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return " ".join(map(str, parts))


def _read(record: Path | None) -> dict[str, str]:
    if record is None:
        return {}
    try:
        found = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return {}
    plain = isinstance(found, dict) and all(isinstance(each, str) for each in found.values())
    return found if plain else {}


def _write(record: Path, digests: dict[str, str]) -> None:
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=record.parent, delete=False) as file:
            json.dump(digests, file)
        Path(file.name).replace(record)

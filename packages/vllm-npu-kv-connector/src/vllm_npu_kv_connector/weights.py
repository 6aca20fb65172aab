"""A short fingerprint of a checkpoint's weights, read in a moment whatever their size."""

from __future__ import annotations

import hashlib
from pathlib import Path

_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_SAMPLES, _SAMPLE_BYTES = 64, 64 * 1024


def fingerprint(directory: Path) -> str | None:
    """Digest of each weight file's name, size, beginning and samples of its content.

    Samples lie evenly over a file, so weights that were trained further differ in them; a change
    of a few single weights between them would go unseen. Times and paths don't enter: a copy on
    another machine has the same fingerprint.

    Args:
        directory: a local checkpoint.

    Returns:
        Hexadecimal, or None if it is no directory or has no weights.
    """
    files = sorted(
        path for pattern in _PATTERNS for path in directory.glob(pattern) if path.is_file()
    )
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            step = max(size // _SAMPLES, _SAMPLE_BYTES)
            for position in range(0, size, step):
                file.seek(position)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()

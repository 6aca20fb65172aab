"""`python -m tests.tiny_models [DIRECTORY [NAME ...]]`: builds the models, all if none is named."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from . import build, default_directory, names


def main(directory: Path, chosen: list[str]) -> None:
    for name in chosen:
        start = time.perf_counter()
        path = build(name, directory)
        size = (path / "model.safetensors").stat().st_size
        seconds = time.perf_counter() - start
        print(f"{name:18} {size / 1e6:5.2f} MB {seconds:6.1f} s  {path}", flush=True)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else default_directory(),
        sys.argv[2:] or names(),
    )

"""An engine, run as a script of its own: takes a graph from the cache, or compiles it.

Arguments: the cache's root, and what it does when it compiles: "wait" until the file `go` is
beside the root, or "die" in the middle of writing.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import torch

from vllm_npu_runtime.compile_cache import CacheKey, CompileCache
from vllm_npu_runtime.program import Binding, Kind, Program

NAME = "tokens=64"
DEADLINE = 120


def say(text: str) -> None:
    print(text, flush=True)


def main(root: Path, manner: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    cache = CompileCache(root, CacheKey({"model": "shared"}))
    inputs = (Binding("ids", Kind.INPUT, (64,), torch.int64),)
    program = Program(NAME, torch.fx.GraphModule({}, torch.fx.Graph()), inputs, ())

    def write(directory: Path) -> bool:
        (directory / "graph.bin").write_bytes(b"half of it")
        if manner == "die":
            os._exit(9)
        (directory / "graph.bin").write_bytes(b"compiled by one engine")
        return True

    with cache.lock(NAME):
        found = cache.find(NAME)
        if found is not None:
            say(f"loaded: {(found.directory / 'graph.bin').read_text()}")
            return
        say("compiling")
        end = time.monotonic() + DEADLINE
        while manner == "wait" and not (root.parent / "go").exists():
            if time.monotonic() > end:
                sys.exit("nobody said go")
            time.sleep(0.02)
        say(f"saved: {cache.save(NAME, program, write)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

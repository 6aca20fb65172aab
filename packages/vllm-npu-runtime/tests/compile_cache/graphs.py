"""A configuration, and a graph of it as a driver would save it."""

from __future__ import annotations

from pathlib import Path

import torch

from vllm_npu_runtime.compile_cache import CacheKey, CompileCache
from vllm_npu_runtime.program import Binding, Kind, Program

KEY = CacheKey({"model": "acme/tiny", "device": "acme:NPU", "torch": "2.13.0"})
NAME = "tokens=64"
FILES = {"graph.bin": b"a compiled graph", "parts/constants.bin": b"\x00\x01\x02"}

PROGRAM = Program(
    NAME,
    torch.fx.GraphModule({}, torch.fx.Graph()),
    inputs=(
        Binding("ids", Kind.INPUT, (64,), torch.int64),
        Binding("layers.0", Kind.KV_CACHE, (None, 2, 16, 32), torch.bfloat16),
        Binding("w", Kind.WEIGHT, (16, 4), torch.float8_e4m3fn),
    ),
    outputs=(Binding("hidden", Kind.INPUT, (64, 16), torch.float32),),
)


def write(directory: Path) -> bool:
    """What a driver's `save` does."""
    for name, content in FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)
    return True


def saved(cache: CompileCache, name: str = NAME) -> Path:
    """A graph saved; its directory."""
    assert cache.save(name, PROGRAM, write)
    found = cache.find(name)
    assert found is not None
    return found.directory

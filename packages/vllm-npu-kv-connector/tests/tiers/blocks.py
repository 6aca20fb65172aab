"""Blocks to store, and where they are read back to."""

from __future__ import annotations

import random

BLOCK = 10_000  # bytes: four pages with its header
ON_DISK = 4 * 4096
MODEL = "ab" * 32
OTHER_MODEL = "cd" * 32


def key(number: int, group: int = 0) -> bytes:
    """As vLLM's: a digest of 32 bytes and four of the group."""
    return random.Random(number).randbytes(32) + group.to_bytes(4, "big")


def content(number: int, size: int = BLOCK) -> memoryview:
    """Of a block; no two have the same."""
    return memoryview(random.Random(f"content {number}").randbytes(size))


def space(size: int = BLOCK) -> memoryview:
    """To read a block to."""
    return memoryview(bytearray(size))

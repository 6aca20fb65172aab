"""What a request's tokens are known by: symbols, and a chain of block hashes over them."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

_SYMBOL_BITS = 62


def seed_of(*identity: object) -> bytes:
    """The first hash of a chain, of whatever makes equal tokens mean different keys and values.

    Args:
        identity: adapter, cache salt and the like; each is told apart by its `repr`.
    """
    return hashlib.sha256(repr(identity).encode()).digest()


def foreign_symbols(identifier: str, count: int) -> range:
    """Symbols in place of the token ids where something else than tokens is embedded.

    They are negative, so that no token id equals them, and each position of each item has its own.

    Args:
        identifier: hash of an image or the like.
        count: of its positions.
    """
    digest = hashlib.sha256(identifier.encode()).digest()
    base = int.from_bytes(digest[:8], "big") % (1 << _SYMBOL_BITS)
    return range(-base - 1, -base - 1 - count, -1)


class Prefix:
    """Symbols of a request, and the hash of every full block of them and all before it.

    Attributes:
        symbols: a token id each, or what stands for something else there.
        hashes: one per full block.
    """

    def __init__(self, seed: bytes, block_size: int, symbols: Iterable[int] = ()) -> None:
        self.symbols: list[int] = []
        self.hashes: list[bytes] = []
        self._seed = seed
        self._block_size = block_size
        self.extend(symbols)

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def root(self) -> bytes | None:
        """What all prefixes have in common that share a block; None: shorter than a block."""
        return self.hashes[0] if self.hashes else None

    def extend(self, symbols: Iterable[int]) -> None:
        """Append symbols."""
        self.symbols.extend(symbols)
        size = self._block_size
        last = self.hashes[-1] if self.hashes else self._seed
        for start in range(len(self.hashes) * size, len(self.symbols) - size + 1, size):
            block = array("q", self.symbols[start : start + size])
            last = hashlib.sha256(last + block.tobytes()).digest()
            self.hashes.append(last)

    def cut(self, length: int) -> Prefix:
        """The first symbols alone."""
        made = Prefix(self._seed, self._block_size)
        made.symbols = self.symbols[:length]
        made.hashes = self.hashes[: length // self._block_size]
        return made

    def common(self, other: Prefix) -> int:
        """How many first symbols both share: whole blocks by hash, then one by one.

        0 if they don't share a block: so nothing with another seed is ever shared.
        """
        blocks = _common_hashes(self.hashes, other.hashes)
        if not blocks:
            return 0
        shared = blocks * self._block_size
        most = min(len(self), len(other))
        while shared < most and self.symbols[shared] == other.symbols[shared]:
            shared += 1
        return shared

    def begins(self, other: Prefix) -> bool:
        """Whether this one, with a block at least, is what the other begins with."""
        return len(self) <= len(other) and self.common(other) == len(self) > 0


def _common_hashes(ours: Sequence[bytes], theirs: Sequence[bytes]) -> int:
    """Hashes are chained: where two are equal, so are all before them."""
    most = min(len(ours), len(theirs))
    return bisect_left(range(most), True, key=lambda index: ours[index] != theirs[index])

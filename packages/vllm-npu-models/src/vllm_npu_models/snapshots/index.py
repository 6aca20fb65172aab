"""Which kept prefixes begin as a request does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from vllm_npu_models.snapshots.prefix import Prefix


class Place(Enum):
    """Where an entry's keys and values are."""

    LIVE = auto()
    """In the slot of a request that runs."""
    SLOT = auto()
    """In a slot that nobody has taken since its request finished."""
    LEAVING = auto()
    """On their way to the host; the worker hasn't confirmed it."""
    HOST = auto()


@dataclass(eq=False)
class Entry:
    """Keys and values that a request may go on from.

    Attributes:
        id: never used twice.
        prefix: the tokens that they are of.
        place: where they are.
        request: id of the request that computed them.
        slot: that they are in, unless they are on the host.
        nbytes: on the host.
        computed: how many of the prefix's tokens are there, where that isn't all yet.
    """

    id: int
    prefix: Prefix
    place: Place
    request: str
    slot: int = -1
    nbytes: int = 0
    computed: Callable[[], int] | None = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """How many tokens' keys and values there are."""
        if self.computed is None:
            return len(self.prefix)
        return max(min(self.computed(), len(self.prefix)), 0)


class PrefixIndex:
    """Entries, found by the hash of their first block."""

    def __init__(self) -> None:
        self._by_root: dict[bytes, dict[int, Entry]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_root.values()))

    def add(self, entry: Entry) -> None:
        """Make an entry known; one shorter than a block is never found."""
        root = entry.prefix.root
        if root is not None:
            self._by_root.setdefault(root, {})[entry.id] = entry

    def remove(self, entry: Entry) -> None:
        """Forget an entry, if it is known."""
        root = entry.prefix.root
        if root is None:
            return
        alike = self._by_root.get(root, {})
        alike.pop(entry.id, None)
        if not alike:
            self._by_root.pop(root, None)

    def matches(self, prefix: Prefix, limit: int) -> Iterator[tuple[Entry, int]]:
        """Every entry that shares a block or more with a prefix.

        Args:
            prefix: of a request.
            limit: most tokens to share.

        Yields:
            The entry, and how many first tokens of the prefix it holds.
        """
        root = prefix.root
        if root is None:
            return
        for entry in self._by_root.get(root, {}).values():
            shared = min(prefix.common(entry.prefix), entry.tokens, limit)
            if shared > 0:
                yield entry, shared

    def begun_by(self, prefix: Prefix) -> list[Entry]:
        """Entries that hold nothing beyond what the prefix does."""
        root = prefix.root
        if root is None:
            return []
        alike = self._by_root.get(root, {}).values()
        return [entry for entry in alike if entry.prefix.begins(prefix)]

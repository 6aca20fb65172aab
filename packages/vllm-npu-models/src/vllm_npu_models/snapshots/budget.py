"""What is kept of finished requests: at most so many, and so many bytes of the host's memory."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_npu_models.snapshots.index import Entry, Place


class Kept:
    """Entries of finished requests, the least recently used first."""

    def __init__(self, max_entries: int, max_host_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_host_bytes = max_host_bytes
        self._entries: dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __contains__(self, entry: Entry) -> bool:
        return entry.id in self._entries

    @property
    def host_bytes(self) -> int:
        """Bytes on the host, with those on their way there."""
        return sum(entry.nbytes for entry in self._entries.values())

    def get(self, number: int) -> Entry | None:
        """The entry of that id, if it is kept."""
        return self._entries.get(number)

    def in_slot(self, slot: int) -> Entry | None:
        """The entry whose keys and values a slot holds."""
        for entry in self._entries.values():
            if entry.place is Place.SLOT and entry.slot == slot:
                return entry
        return None

    def add(self, entry: Entry) -> None:
        """Keep an entry, as the most recently used."""
        self._entries[entry.id] = entry

    def touch(self, entry: Entry) -> None:
        """An entry was used."""
        self._entries[entry.id] = self._entries.pop(entry.id)

    def remove(self, entry: Entry) -> None:
        """Keep it no longer."""
        del self._entries[entry.id]

    def excess(self) -> list[Entry]:
        """Entries to give up: those beyond the cap, and those whose bytes turned out too many."""
        beyond = max(len(self) - self._max_entries, 0)
        gone = list(self._entries.values())[:beyond]
        gone_ids = {entry.id for entry in gone}
        left = self.host_bytes - sum(entry.nbytes for entry in gone)
        for entry in self:
            if left <= self._max_host_bytes:
                break
            if entry.nbytes and entry.id not in gone_ids:
                gone.append(entry)
                left -= entry.nbytes
        return gone

    def room_for(self, nbytes: int, spared: Entry | None = None) -> list[Entry] | None:
        """Which entries to give up so that so many more bytes fit on the host.

        Args:
            nbytes: wanted.
            spared: is not given up, as it is about to be used.

        Returns:
            The entries; None if the bytes don't fit even then.
        """
        left = self.host_bytes
        gone: list[Entry] = []
        for entry in self:
            if left + nbytes <= self._max_host_bytes:
                break
            if entry.nbytes and entry is not spared:
                gone.append(entry)
                left -= entry.nbytes
        return gone if left + nbytes <= self._max_host_bytes else None

"""So many entries, so many bytes."""

from __future__ import annotations

import pytest

from vllm_npu_models.snapshots.budget import Kept
from vllm_npu_models.snapshots.index import Entry, Place

from .fakes import prefix


def _kept(*sizes: int, entries: int = 99, limit: int = 100) -> Kept:
    kept = Kept(entries, limit)
    for number, nbytes in enumerate(sizes):
        place = Place.HOST if nbytes else Place.SLOT
        kept.add(Entry(number, prefix(1, 2, 3, 4), place, "request", number, nbytes))
    return kept


def _ids(entries: list[Entry] | None) -> list[int] | None:
    return None if entries is None else [entry.id for entry in entries]


def test_beyond_the_cap_the_least_recently_used_go() -> None:
    kept = _kept(0, 0, 0, entries=2)
    assert _ids(kept.excess()) == [0]
    first = kept.get(0)
    assert first is not None
    kept.touch(first)
    assert _ids(kept.excess()) == [1]


@pytest.mark.parametrize(
    ("nbytes", "spared", "gone"),
    [
        (10, None, []),
        (50, None, [0]),
        (80, None, [0, 2]),
        (50, 0, [2]),
        (101, None, None),
        (70, 0, None),
    ],
)
def test_room_is_made_from_the_least_recently_used_on_the_host(
    nbytes: int, spared: int | None, gone: list[int] | None
) -> None:
    kept = _kept(40, 0, 40)
    entry = None if spared is None else kept.get(spared)
    assert _ids(kept.room_for(nbytes, entry)) == gone


def test_bytes_that_turn_out_more_than_expected_are_given_up() -> None:
    kept = _kept(40, 0, 40)
    entry = kept.get(2)
    assert entry is not None
    entry.nbytes = 70
    assert _ids(kept.excess()) == [0]

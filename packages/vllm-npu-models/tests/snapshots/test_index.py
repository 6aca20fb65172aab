"""Kept prefixes are found."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vllm_npu_models.snapshots.index import Entry, Place, PrefixIndex

from .fakes import BLOCK, prefix

TOKENS = st.lists(st.integers(0, 2), max_size=16)


def _entry(number: int, tokens: list[int], computed: int | None = None) -> Entry:
    made = Entry(number, prefix(*tokens), Place.SLOT, f"request {number}", number)
    if computed is not None:
        made.computed = lambda: computed
    return made


@given(st.lists(TOKENS, max_size=8), TOKENS, st.integers(0, 16), st.sets(st.integers(0, 7)))
def test_all_that_share_a_block_are_found_with_what_they_share(
    kept: list[list[int]], wanted: list[int], limit: int, gone: set[int]
) -> None:
    index = PrefixIndex()
    entries = [_entry(number, tokens) for number, tokens in enumerate(kept)]
    for entry in entries:
        index.add(entry)
    for number in gone:
        if number < len(entries):
            index.remove(entries[number])
    expected = {}
    for number, tokens in enumerate(kept):
        shared = 0
        while shared < min(len(tokens), len(wanted)) and tokens[shared] == wanted[shared]:
            shared += 1
        if number not in gone and shared >= BLOCK and min(shared, limit):
            expected[number] = min(shared, limit)
    found = {entry.id: shared for entry, shared in index.matches(prefix(*wanted), limit)}
    assert found == expected


def test_of_a_running_request_only_what_is_computed_counts() -> None:
    index = PrefixIndex()
    index.add(_entry(1, [1, 2, 3, 4, 5, 6], computed=5))
    index.add(_entry(2, [1, 2, 3, 4, 5, 6], computed=0))
    found = [(entry.id, n) for entry, n in index.matches(prefix(1, 2, 3, 4, 5, 6, 7), 99)]
    assert found == [(1, 5)]


def test_entries_that_hold_nothing_beyond_a_newer_one_are_named() -> None:
    index = PrefixIndex()
    for number, tokens in enumerate([[1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9]]):
        index.add(_entry(number, tokens))
    assert [entry.id for entry in index.begun_by(prefix(1, 2, 3, 4, 5, 6))] == [0, 1]

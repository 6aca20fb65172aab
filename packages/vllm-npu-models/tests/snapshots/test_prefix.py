"""What requests are told apart by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_npu_models.snapshots.prefix import Prefix, foreign_symbols, seed_of

from .fakes import BLOCK, prefix

TOKENS = st.lists(st.integers(0, 2), max_size=20)


def _common(ours: list[int], theirs: list[int]) -> int:
    """First tokens in common, one by one; nothing below a block."""
    count = 0
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            break
        count += 1
    return count if count >= BLOCK else 0


@given(TOKENS, TOKENS)
def test_what_two_have_in_common_is_found_to_the_token(ours: list[int], theirs: list[int]) -> None:
    assert prefix(*ours).common(prefix(*theirs)) == _common(ours, theirs)


@given(TOKENS, TOKENS, st.integers(0, 20))
def test_grown_and_cut_it_is_as_if_made_at_once(old: list[int], new: list[int], cut: int) -> None:
    made = prefix(*old)
    made.extend(new)
    whole = prefix(*old, *new)
    assert (made.symbols, made.hashes) == (whole.symbols, whole.hashes)
    short, expected = made.cut(cut), prefix(*(old + new)[:cut])
    assert (short.symbols, short.hashes) == (expected.symbols, expected.hashes)


@pytest.mark.parametrize(
    "other", [seed_of("salt"), seed_of("adapter", None), seed_of(None, "adapter")]
)
def test_equal_tokens_of_another_identity_have_nothing_in_common(other: bytes) -> None:
    tokens = range(16)
    assert Prefix(seed_of(None), BLOCK, tokens).common(Prefix(other, BLOCK, tokens)) == 0


def test_images_are_told_apart_though_their_token_ids_are_the_same() -> None:
    one, other = foreign_symbols("image 1", 5), foreign_symbols("image 2", 5)
    assert len(set(one) | set(other)) == 10
    assert all(symbol < 0 for symbol in (*one, *other))
    text = range(8)
    assert prefix(*text, *one).common(prefix(*text, *other)) == 8
    assert prefix(*text, *one).common(prefix(*text, *foreign_symbols("image 1", 5))) == 13


@pytest.mark.parametrize(
    ("short", "expected"), [((1, 2, 3, 4), True), ((1, 2, 3), False), ((1, 2, 3, 5), False)]
)
def test_it_begins_another_if_all_of_it_does(short: tuple[int, ...], expected: bool) -> None:
    assert prefix(*short).begins(prefix(1, 2, 3, 4, 5)) is expected

"""The choice of combinations is itself right: nothing that should be tested is left out."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.covering import covering

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "exaone4", "gemma2")
CONTRACTS = ("paged", "gather", "openvino")


@pytest.mark.parametrize(
    ("axes", "most"),
    [
        ((FAMILIES, CONTRACTS, ("chunked", "whole")), 20),
        ((("cpu", "reference"), "123", "123"), 11),
        ((CONTRACTS, "ab"), 6),
        (("abc",), 3),
    ],
    ids=["families", "sizes", "two", "one"],
)
def test_every_pair_is_there_in_few_rows(axes: tuple[tuple[str, ...], ...], most: int) -> None:
    rows = list(product(*axes))
    kept = covering(rows)
    assert len(kept) <= most
    for (left, lefts), (right, rights) in combinations(enumerate(axes), 2):
        assert {(row[left], row[right]) for row in kept} == set(product(lefts, rights))
    for column, values in enumerate(axes):
        assert {row[column] for row in kept} == set(values)


def test_the_order_of_tests_changes_nothing() -> None:
    rows = list(product(FAMILIES, CONTRACTS, ("chunked", "whole")))
    assert covering(rows) == covering(rows[::-1])

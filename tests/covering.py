"""Which combinations of options are tested by default.

A test with `@pytest.mark.pairwise("one", "two", "three")` is run for so few values of these
parameters that any two of them still meet with every value of the one and every value of the
other: faults of options seldom need three to show. `pytest --grid` runs all combinations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

import pytest

Values = tuple[str, ...]


def chosen(items: Iterable[pytest.Item], grid: bool) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Items that are run, and the others, both in their order.

    A mark's `possible`, called with the parameters by name, says which values can be together at
    all.

    Args:
        items: collected tests.
        grid: run every combination that is possible.
    """
    known = list(items)
    tests: dict[tuple[Any, ...], list[tuple[Values, pytest.Item]]] = defaultdict(list)
    left_out: set[pytest.Item] = set()
    for item in known:
        mark = item.get_closest_marker("pairwise")
        if mark is None:
            continue
        given = item.callspec.params  # type: ignore[attr-defined]
        possible: Callable[..., bool] = mark.kwargs.get("possible", lambda **_: True)
        if not possible(**{axis: given[axis] for axis in mark.args}):
            left_out.add(item)
            continue
        values = tuple(str(given[axis]) for axis in mark.args)
        others = tuple(sorted((name, str(given[name])) for name in {*given} - {*mark.args}))
        test = item.nodeid.split("[")[0]
        tests[(test, others)].append((values, item))
    if not grid:
        for each in tests.values():
            kept = covering([values for values, _ in each])
            left_out |= {item for values, item in each if values not in kept}
    return (
        [item for item in known if item not in left_out],
        [item for item in known if item in left_out],
    )


def covering(rows: Sequence[Values]) -> set[Values]:
    """Rows that have every pair of values that the given ones have.

    The result depends on the set of rows only, so that tests with the same parameters share
    engines. Each step takes the row with most pairs that are missing so far (R. Kuhn et al.,
    "Practical Combinatorial Testing", NIST SP 800-142, tells of pairs and of such algorithms).
    """
    left = sorted(set(rows))
    missing = {pair for row in left for pair in _pairs(row)}
    kept: set[Values] = set()
    while missing:
        best = max(left, key=lambda row: len(_pairs(row) & missing))
        missing -= _pairs(best)
        kept.add(best)
    for row in sorted(kept):  # One that was taken early may be needless by now.
        others = {pair for other in kept - {row} for pair in _pairs(other)}
        if _pairs(row) <= others:
            kept.remove(row)
    return kept


def _pairs(row: Values) -> set[Any]:
    return set(combinations(enumerate(row), 2)) or {row}

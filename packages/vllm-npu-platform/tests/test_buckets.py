"""Buckets: which sizes graphs are compiled for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_npu_platform.graph.buckets import bucket_sizes, fitting
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import BucketSettings


def sizes(maximum: int, **settings: Any) -> tuple[int, ...]:
    return bucket_sizes("token_bucket", BucketSettings(**settings), maximum)


def test_exponential_divides_from_the_maximum_down() -> None:
    assert sizes(64, strategy="exponential", step=2) == (1, 2, 4, 8, 16, 32, 64)
    assert sizes(64, strategy="exponential", step=4) == (1, 4, 16, 64)


def test_exponential_rounds_down() -> None:
    assert sizes(100, strategy="exponential", step=3) == (1, 3, 11, 33, 100)


def test_linear_subtracts_from_the_maximum_down() -> None:
    assert sizes(100, strategy="linear", step=30) == (10, 40, 70, 100)
    assert sizes(4, strategy="linear", step=1) == (1, 2, 3, 4)


@pytest.mark.parametrize("strategy", ["exponential", "linear"])
def test_limit_keeps_the_largest(strategy: str) -> None:
    assert sizes(64, strategy=strategy, step=16, limit=1) == (64,)
    assert len(sizes(64, strategy=strategy, step=16, limit=2)) == 2


@pytest.mark.parametrize("strategy", ["exponential", "linear"])
def test_min_ends_the_row(strategy: str) -> None:
    assert min(sizes(64, strategy=strategy, step=2, min=16, limit=100)) == 16


def test_min_itself_is_a_bucket_only_if_the_row_meets_it() -> None:
    assert sizes(64, strategy="exponential", step=4, min=5) == (16, 64)


def test_manual_takes_the_list_in_any_order() -> None:
    assert sizes(64, strategy="manual", manual_buckets=(64, 3, 17)) == (3, 17, 64)


@pytest.mark.parametrize("listed", [(8, 32), (8, 128)])
def test_manual_must_end_with_the_maximum(listed: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError) as error:
        sizes(64, strategy="manual", manual_buckets=listed)
    assert f"token_bucket.manual_buckets {list(listed)}" in str(error.value)
    assert "Make 64 the largest" in str(error.value)


def test_min_above_the_maximum_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"token_bucket.min 65: .* Use 64 or less"):
        sizes(64, strategy="exponential", min=65)


def test_a_batch_takes_the_next_bucket() -> None:
    assert [fitting((2, 4, 9), count) for count in (1, 2, 3, 5, 9)] == [2, 2, 4, 9, 9]


rows = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(["exponential", "linear"]),
        "step": st.integers(2, 500),
        "limit": st.integers(1, 50),
        "min": st.integers(1, 100),
    }
)


@given(st.integers(100, 10_000), rows)
def test_any_row_ends_with_the_maximum_and_keeps_limit_and_min(
    maximum: int, settings: dict[str, Any]
) -> None:
    row = sizes(maximum, **settings)
    assert row[-1] == maximum
    assert list(row) == sorted(set(row))
    assert len(row) <= settings["limit"]
    assert all(size >= settings["min"] for size in row[:-1])


@given(st.data(), st.integers(1, 10_000))
def test_the_default_wastes_at_most_half_a_batch(data: st.DataObject, maximum: int) -> None:
    count = data.draw(st.integers(1, maximum))
    assert count >= fitting(sizes(maximum), count) / 2

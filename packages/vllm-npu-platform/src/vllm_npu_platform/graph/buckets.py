"""Buckets: the sizes that graphs are compiled for. A batch is padded up to the next one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import BucketSettings


def bucket_sizes(
    name: str, settings: BucketSettings, maximum: int, divisor: int = 2
) -> tuple[int, ...]:
    """The sizes, ascending; the largest is `maximum`.

    Args:
        name: of the setting, for errors.
        settings: strategy and its numbers. *exponential* divides by `step`, *linear* subtracts
            it, both from `maximum` down while fewer than `limit` sizes exist and the next is at
            least `min`; *manual* takes the list as given.
        maximum: the largest batch that a step can hold.
        divisor: the exponential strategy's `step` where the settings say none.

    Raises:
        ConfigurationError: `min` above the maximum, or a manual list that doesn't end with it.
    """
    if settings.strategy == "manual":
        sizes = sorted(settings.manual_buckets)
        if sizes[-1] != maximum:
            raise ConfigurationError(
                f"{name}.manual_buckets {sizes}: the largest is {sizes[-1]}, but a step can hold "
                f"{maximum}. Make {maximum} the largest."
            )
        return tuple(sizes)
    if settings.min > maximum:
        raise ConfigurationError(
            f"{name}.min {settings.min}: a step holds at most {maximum}. Use {maximum} or less."
        )
    return tuple(sorted(_descending(settings, maximum, divisor)))


def _descending(settings: BucketSettings, maximum: int, divisor: int) -> Iterator[int]:
    exponential = settings.strategy == "exponential"
    step = settings.step or (divisor if exponential else 2)
    size = maximum
    for _ in range(settings.limit):
        yield size
        size = size // step if exponential else size - step
        if size < settings.min:
            return


def fitting(sizes: tuple[int, ...], count: int) -> int:
    """The smallest of ascending sizes that holds `count`; the caller never asks for more."""
    return sizes[bisect_left(sizes, count)]

"""The driver registry: entry points of the group ``vllm_npu.drivers``.

A vendor's package brings its driver by declaring an entry point; nothing here names one.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm_npu_runtime.drivers.base import Driver

GROUP = "vllm_npu.drivers"


def available() -> dict[str, EntryPoint]:
    """Installed drivers by name. Loads none."""
    return {point.name: point for point in entry_points(group=GROUP)}


@cache
def load(name: str) -> Driver:
    """The driver of that name, made once per process.

    Raises:
        ConfigurationError: no such driver, or it can't be imported; lists the known ones.
    """
    known = available()
    if name not in known:
        raise ConfigurationError.unknown("driver", name, known)
    try:
        driver: Driver = known[name].load()()
    except ImportError as error:
        raise ConfigurationError(
            f"Driver '{name}' can't be imported: {error}. "
            f"Install it with `pip install vllm-npu-runtime[{name}]`."
        ) from error
    return driver

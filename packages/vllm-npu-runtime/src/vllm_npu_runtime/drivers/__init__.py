"""The driver registry: entry points of the group ``vllm_npu.drivers``.

A vendor's package brings its driver by declaring an entry point; nothing here names one. Whatever
comes out of a vendor's code becomes one of our errors, with the name of the distribution.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from vllm_npu_runtime.errors import BrokenDriverError, ConfigurationError, NPUError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_npu_runtime.drivers.base import DeviceInfo, Driver

GROUP = "vllm_npu.drivers"
_OWN = "vllm-npu-runtime"


def available() -> dict[str, EntryPoint]:
    """Installed drivers by name, in the order of their names. Loads none."""
    return {point.name: point for point in sorted(_points(), key=_order)}


@cache
def load(name: str) -> Driver:
    """The driver of that name, made once per process.

    Raises:
        ConfigurationError: no such driver, two of that name, or one that can't be imported or
            made; says which distributions bring it.
    """
    known = available()
    if name not in known:
        raise ConfigurationError.unknown("driver", name, known)
    brought_by = sorted({distribution(each) for each in _points() if each.name == name})
    if len(brought_by) > 1:
        raise ConfigurationError(
            f"{len(brought_by)} distributions bring a driver '{name}': {', '.join(brought_by)}. "
            "Uninstall all but one."
        )
    point = known[name]
    try:
        driver: Driver = point.load()()
    except ImportError as error:
        source = distribution(point)
        package = f"{_OWN}[{name}]" if source in (_OWN, "") else source
        raise ConfigurationError(
            f"Driver '{name}' can't be imported: {error}. Install it with `pip install {package}`."
        ) from error
    except NPUError:
        raise
    except Exception as error:
        raise _broken(name, "can't be made", error) from error
    return driver


def devices(name: str) -> tuple[Driver, Sequence[DeviceInfo]]:
    """A driver and the devices that it finds now.

    Raises:
        ConfigurationError: see `load`; the vendor's runtime is missing; or anything else goes
            wrong in the vendor's code (`BrokenDriverError`).
    """
    driver = load(name)
    try:
        return driver, list(driver.devices())
    except NPUError:
        raise
    except Exception as error:
        raise _broken(name, "can't list its devices", error) from error


def distribution(point: EntryPoint) -> str:
    """Name of the distribution that brings an entry point; empty if it isn't known."""
    source = getattr(point, "dist", None)
    return source.name if source is not None else ""


def _broken(name: str, what: str, error: Exception) -> BrokenDriverError:
    source = distribution(available()[name])
    of = f" of {source}" if source else ""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return BrokenDriverError(f"Driver '{name}'{of} {what}: {reason}")


def _points() -> Sequence[EntryPoint]:
    return tuple(entry_points(group=GROUP))


def _order(point: EntryPoint) -> tuple[str, str]:
    return point.name, distribution(point)

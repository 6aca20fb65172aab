"""Typed errors. Each says what happened, why, and how to mend it.

The tree follows what a caller can do about a failure: change the configuration, fail the
requests that a step carried, or stop because the device is gone.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class NPUError(RuntimeError):
    """Base of every error that the suite raises on purpose."""


class ConfigurationError(NPUError, ValueError):
    """A setting, model or request that can't be honoured. The user can mend it."""

    @classmethod
    def unknown(cls, what: str, value: str, allowed: Iterable[str]) -> "ConfigurationError":
        """An unknown name: lists what is allowed and names the nearest.

        Args:
            what: the kind of thing that was named, as in "driver".
            value: the name that was given.
            allowed: the names that exist.
        """
        known = sorted(allowed)
        near = get_close_matches(value, known, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return cls(f"Unknown {what} '{value}'.{hint} Known: {', '.join(known) or 'none'}.")

    @classmethod
    def several(cls, problems: list[str]) -> "ConfigurationError":
        """All problems in one error, so that a user mends them in one go."""
        if len(problems) == 1:
            return cls(problems[0])
        listed = "\n".join(f"  {number}. {text}" for number, text in enumerate(problems, 1))
        return cls(f"{len(problems)} settings can't be honoured:\n{listed}")


class BrokenDriverError(ConfigurationError):
    """What came out of a vendor's code that is none of these errors; names the distribution."""


class CaptureError(NPUError):
    """The model's forward pass could not be captured into one static graph."""


class DeviceError(NPUError):
    """Something went wrong on the device; subclasses say what."""


class OutOfMemoryError(DeviceError):
    """The device has too little memory left for what was asked."""


class UnsupportedOperatorError(DeviceError):
    """A program holds an operator that the device can't run."""


class BadShapeError(DeviceError):
    """A tensor's shape, dtype or layout is not what the program was compiled for."""


class DeviceLostError(DeviceError):
    """The device is gone: nothing can run on it any more, so the engine stops."""


class DeviceTimeoutError(DeviceError):
    """The device did not answer in time."""

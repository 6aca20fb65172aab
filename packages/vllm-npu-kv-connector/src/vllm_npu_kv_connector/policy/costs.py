"""What loading and computing a token of a prompt cost, as measured while serving."""

from __future__ import annotations

from dataclasses import dataclass, field

_ALPHA = 0.3
_WHOLE = 256
"""Tokens of a measurement that counts in full: a step of few tokens tells little of a prompt's."""


class Average:
    """Seconds per token, the newest measurement counting most.

    The first measurement is left out: it is of memory that nobody has touched yet.

    Attributes:
        value: None before there are two measurements.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._warm = False

    def add(self, seconds: float, tokens: float) -> None:
        """Take in that so many tokens took so many seconds."""
        if tokens <= 0 or seconds < 0:
            return
        if not self._warm:
            self._warm = True
            return
        new = seconds / tokens
        weight = _ALPHA * min(1.0, tokens / _WHOLE)
        self.value = new if self.value is None else self.value + weight * (new - self.value)


@dataclass
class Costs:
    """Seconds per token of each way to get a prompt's KV.

    Attributes:
        compute: of a prefill step.
        host: of a copy from host memory to the device.
        tiers: of bringing a block from a tier to host memory, by the tier's name.
    """

    compute: Average = field(default_factory=Average)
    host: Average = field(default_factory=Average)
    tiers: dict[str, Average] = field(default_factory=dict)

    def tier(self, name: str) -> Average:
        """Of the tier of that name."""
        return self.tiers.setdefault(name, Average())

    def load(self, tier: str | None = None) -> float | None:
        """Of a load all the way, from host memory or a tier; None if it wasn't measured."""
        ways = [self.host] if tier is None else [self.host, self.tier(tier)]
        values = [way.value for way in ways]
        return None if None in values else sum(value for value in values if value is not None)

"""The decision for one request: load from host memory, from each tier, or compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from vllm_npu_kv_connector.policy.costs import Costs

_RETRY = 16


class LoadMode(StrEnum):
    """What the user wants: measured costs decide, or nothing does."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class Decision:
    """Where a request's prefix may come from.

    Attributes:
        host: from host memory; without it, from nowhere.
        tiers: names of those from which it may.
    """

    host: bool
    tiers: frozenset[str]


class LoadPolicy:
    """Compares what was measured of loads with what was measured of prefill.

    Costs are per token on both sides, so a prefix's length doesn't enter. What hasn't been
    measured is tried; what was too slow is tried again after some refusals, as machines change.

    Args:
        mode: the user's.
        margin: a load must take less than this share of computing the same tokens.

    Attributes:
        costs: what has been measured.
    """

    def __init__(self, mode: LoadMode, margin: float) -> None:
        self.costs = Costs()
        self._mode = mode
        self._margin = margin
        self._refusals: Counter[str | None] = Counter()

    def decide(self, tiers: Iterable[str]) -> Decision:
        """Decide for one request.

        Args:
            tiers: names of those that there are.
        """
        names = frozenset(tiers)
        if self._mode is not LoadMode.AUTO:
            always = self._mode is LoadMode.ALWAYS
            return Decision(always, names if always else frozenset())
        if not self._worth(None):
            return Decision(False, frozenset())
        return Decision(True, frozenset(name for name in names if self._worth(name)))

    def _worth(self, tier: str | None) -> bool:
        load, compute = self.costs.load(tier), self.costs.compute.value
        if load is None or compute is None or load < self._margin * compute:
            return True
        self._refusals[tier] = (self._refusals[tier] + 1) % _RETRY
        return self._refusals[tier] == 0

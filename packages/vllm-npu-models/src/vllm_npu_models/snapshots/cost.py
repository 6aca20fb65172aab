"""Whether loading a prefix is faster than computing it: measured, not assumed."""

from __future__ import annotations

from vllm_npu_models.snapshots.operations import Report, Spent

ALPHA = 0.3
RETRY = 16


class Average:
    """Milliseconds per token, the newest counting most.

    Attributes:
        value: None before anything was measured.
    """

    def __init__(self, alpha: float = ALPHA) -> None:
        self.value: float | None = None
        self._alpha = alpha

    def add(self, spent: Spent) -> None:
        """Take a measurement in."""
        if spent.tokens <= 0:
            return
        new = spent.milliseconds / spent.tokens
        old = self.value
        self.value = new if old is None else old + self._alpha * (new - old)


class CostModel:
    """Compares what was measured of loads with what was measured of prefill.

    What hasn't been measured yet is tried; what was too slow is tried again after some refusals,
    as the first load of all is the slowest.

    Attributes:
        prefill: of computing a prompt.
        slot_copies: of copies between slots.
        loads: of loads from the host.
    """

    def __init__(self, margin: float) -> None:
        self.prefill = Average()
        self.slot_copies = Average()
        self.loads = Average()
        self._margin = margin
        self._refusals = 0

    def take(self, report: Report) -> None:
        """Take in what the worker measured."""
        self.prefill.add(report.prefill)
        self.slot_copies.add(report.slot_copies)
        self.loads.add(report.loads)

    def worth(self, way: Average, tokens: int) -> bool:
        """Whether so many tokens should come that way and not be computed."""
        if way.value is None or self.prefill.value is None:
            return True
        return way.value * tokens < self._margin * self.prefill.value * tokens

    def refused(self) -> bool:
        """Count a refusal; now and then it is none, to measure anew."""
        self._refusals = (self._refusals + 1) % RETRY
        return self._refusals != 0

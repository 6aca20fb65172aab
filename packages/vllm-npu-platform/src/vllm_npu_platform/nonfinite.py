"""Requests whose numbers are NaN or infinite: found in every step, before anybody uses a token.

What follows from such a number is nothing: every token would be the vocabulary's first. vLLM's
scheduler is told by `ModelRunnerOutput.num_nans_in_logits`, and `scheduling` ends the request.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from vllm_npu_platform.stats import counters as names
from vllm_npu_platform.stats.counters import Counters

_logger = logging.getLogger("vllm.npu")
_REMEMBERED = 1024

HIDDEN = "hidden states"
LOGITS = "logits"


class NonFinite:
    """What is found in the step at hand.

    Args:
        counters: what is counted.

    Attributes:
        found: by request, how many rows of it hold such numbers.
    """

    def __init__(self, counters: Counters) -> None:
        self.found: dict[str, int] = {}
        self._counters = counters
        self._told: OrderedDict[str, None] = OrderedDict()

    def take(self) -> dict[str, int]:
        """What was found in this step; the next one begins with nothing."""
        found, self.found = self.found, {}
        return found

    def look(
        self,
        rows: torch.Tensor,
        owners: Callable[[], np.ndarray],
        requests: Sequence[str],
        what: str,
    ) -> None:
        """Look at rows of the step.

        Args:
            rows: `[rows, ...]`, floating.
            owners: gives the request of each row, integers `[rows]`, where that is asked for.
            requests: their ids.
            what: the rows are.
        """
        # Of all numbers, one pass; a sum that overflows by itself costs a closer look.
        if rows.sum(dtype=torch.float32).isfinite():
            return
        finite = rows.isfinite()
        if finite.all():
            return
        spoilt = torch.logical_not(finite.flatten(1).all(1)).numpy()
        for index, count in zip(*np.unique(owners()[spoilt], return_counts=True), strict=True):
            self._note(requests[index], int(count), what)

    def _note(self, request: str, count: int, what: str) -> None:
        self.found[request] = self.found.get(request, 0) + count
        if request in self._told:  # steps scheduled ahead find it again
            return
        self._told[request] = None
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        self._counters.add(names.NONFINITE)
        _logger.error(
            "Request %s is ended with an error: its %s hold NaN or infinity. The model overflows "
            "its dtype, or the request's embeddings do.",
            request,
            what,
        )

"""What scheduler and worker tell each other beside vLLM's own messages: how long steps took."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import (
    OffloadingConnectorMetadata,
    OffloadingWorkerMetadata,
)


@dataclass
class StepMetadata(OffloadingConnectorMetadata):
    """A step's transfers, and how many tokens of prompts it computes.

    Attributes:
        prefill_tokens: 0 for a step that mostly decodes, which tells nothing of prefill.
    """

    prefill_tokens: int = 0


@dataclass
class StepReport(OffloadingWorkerMetadata):
    """Transfers that ended, and what a prefill step took.

    Attributes:
        prefill_tokens: of the step; 0 where it wasn't one.
        prefill_seconds: of the model's pass.
    """

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0

    def aggregate(self, other: OffloadingWorkerMetadata) -> StepReport:
        """Of several workers, which ran the same step: the slowest counts."""
        merged = super().aggregate(other)
        tokens, seconds = self.prefill_tokens, self.prefill_seconds
        if isinstance(other, StepReport):
            tokens = max(tokens, other.prefill_tokens)
            seconds = max(seconds, other.prefill_seconds)
        return StepReport(merged.completed_jobs, merged.transfer_stats, tokens, seconds)

"""What goes between the two sides of the connector, in vLLM's envelopes."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from vllm_npu_models.snapshots.operations import Operation, Report
from vllm_npu_models.snapshots.settings import SessionFacts


@dataclass
class StepMetadata(KVConnectorMetadata):
    """From the scheduler to the worker, with every step.

    Attributes:
        operations: to do before the step, in this order.
        rows: slots with tokens in the step.
        tokens: of the step.
        prefill_tokens: of these, those of prompts.
    """

    operations: tuple[Operation, ...] = ()
    rows: frozenset[int] = frozenset()
    tokens: int = 0
    prefill_tokens: int = 0


@dataclass
class WorkerReport(KVConnectorWorkerMetadata):
    """From the worker to the scheduler, with a step's output."""

    report: Report = field(default_factory=Report)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        """A session has one worker.

        Raises:
            ValueError: always.
        """
        raise ValueError("A session is served by one worker; there are reports of two.")


@dataclass
class Handshake(KVConnectorHandshakeMetadata):
    """From the worker to the scheduler, once the session is open."""

    facts: SessionFacts

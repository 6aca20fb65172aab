"""Between vLLM's scheduler and the manager: requests, blocks and steps into its terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vllm.v1.request import RequestStatus

from vllm_npu_models.slots import slot_of_block
from vllm_npu_models.snapshots.free_slots import FreeSlots
from vllm_npu_models.snapshots.manager import SnapshotManager
from vllm_npu_models.snapshots.messages import StepMetadata
from vllm_npu_models.snapshots.metrics import SnapshotStats
from vllm_npu_models.snapshots.operations import Report
from vllm_npu_models.snapshots.plan import Plan
from vllm_npu_models.snapshots.prefix import Prefix
from vllm_npu_models.snapshots.requests import Prefixes
from vllm_npu_models.snapshots.settings import SessionFacts, SnapshotSettings
from vllm_npu_models.snapshots.tally import Tally

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

_UNKNOWN = SessionFacts(crops=False, copies=False, step=0, bytes_per_token=0.0)


class SchedulerSide:
    """The connector in the scheduler's process."""

    def __init__(self, settings: SnapshotSettings) -> None:
        self._settings = settings
        self._keeps = False
        self._manager = SnapshotManager(settings, _UNKNOWN)
        self._prefixes = Prefixes(settings.block_size)
        self._free: FreeSlots | None = None
        self._plans: dict[str, Plan] = {}
        self._barred: set[str] = set()
        self._told = (0, 0)

    def learn(self, facts: SessionFacts) -> None:
        """What the session can do; before the first request."""
        self._keeps = self._settings.enabled and (facts.crops or facts.copies)
        self._manager = SnapshotManager(self._settings, facts)

    def bind(self, pool: BlockPool) -> None:
        """Where vLLM's free blocks are."""
        self._free = FreeSlots(pool)

    def match(self, request: Request, computed: int) -> int | None:
        """How many tokens a request may go on from; None: ask again in the next step.

        vLLM is made to hand out the slot that suits best, which is why nothing may be allocated
        between this call and `admit`; the scheduler of this vLLM does not.
        """
        barred = request.skip_reading_prefix_cache or request.request_id in self._barred
        reads = computed == 0 and not barred
        prefix = self._prefix(request) if reads else None
        free = self._free
        plan = self._manager.plan(
            prefix, request.num_tokens - 1, [] if free is None else list(free)
        )
        if plan.wait:
            return None
        if free is not None and plan.slot is not None:
            free.prefer(plan.slot)
        self._plans[request.request_id] = plan
        return plan.tokens

    def admit(self, request: Request, block_ids: Sequence[int], loaded: int) -> None:
        """A request got its block, to go on from so many tokens."""
        plan = self._plans.pop(request.request_id, Plan(None))
        if loaded == 0 and plan.entry is not None:
            plan = Plan(plan.slot)
        self._manager.admit(
            request.request_id,
            slot_of_block(block_ids[0]),
            plan,
            self._prefix(request),
            _computed(request),
        )

    def finish(self, request: Request, has_slot: bool) -> None:
        """A request is done."""
        self._plans.pop(request.request_id, None)
        self._barred.discard(request.request_id)
        left = self._prefixes.left_by(request) if self._keeps else None
        if has_slot:
            self._manager.finish(request.request_id, left)
        else:
            self._manager.abandon(request.request_id)

    def step(self, output: SchedulerOutput) -> StepMetadata:
        """What goes to the worker with a step."""
        scheduled = output.num_scheduled_tokens
        drafts = output.scheduled_spec_decode_tokens
        return StepMetadata(
            operations=self._manager.take_operations(),
            rows=self._manager.slots_of(list(scheduled)),
            tokens=output.total_num_scheduled_tokens,
            prefill_tokens=sum(
                count
                for request, count in scheduled.items()
                if count > 1 + len(drafts.get(request, ()))
            ),
        )

    def take(self, report: Report) -> None:
        """What came back from the worker."""
        # What couldn't be loaded once isn't tried again for the same request.
        self._barred |= report.unfilled
        self._manager.take(report)

    def clear(self) -> None:
        """Keep nothing of what there is."""
        self._manager.clear()

    @property
    def pending(self) -> bool:
        """Whether there is something for the worker to do."""
        return self._manager.pending

    def stats(self) -> SnapshotStats | None:
        """Counts since the last time; None: nothing has changed."""
        manager = self._manager
        kept = (manager.entries, manager.host_bytes)
        if manager.tally == Tally() and kept == self._told:
            return None
        tally, manager.tally, self._told = manager.tally, Tally(), kept
        return SnapshotStats.of(tally, *kept)

    def _prefix(self, request: Request) -> Prefix | None:
        return self._prefixes.of(request) if self._keeps else None


def _computed(request: Request) -> Callable[[], int]:
    """How many tokens a request's slot holds before the step that is being scheduled."""
    return lambda: request.num_computed_tokens if request.status is RequestStatus.RUNNING else 0

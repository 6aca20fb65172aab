"""vLLM's schedulers, made to fail exactly the requests whose slots failed.

vLLM fails requests by the blocks that a connector couldn't load. It looks for such a block only
in requests that had computed tokens before the step. A request whose first step failed has none,
so it would go on, with a token sampled from nothing; and where steps are scheduled ahead, a block
may have changed hands by the time that its failure is known. So requests are found by id here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from vllm_npu_models.snapshots.messages import WorkerReport

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput

SCHEDULER = f"{__name__}.session_scheduler"
"""For vLLM's `scheduler_cls`."""


class _FailsById:
    _failed: frozenset[str] = frozenset()

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> Any:
        """As vLLM's, but with the requests at hand that failed."""
        output = model_runner_output.kv_connector_output
        found = None if output is None else output.kv_connector_worker_meta
        known = isinstance(found, WorkerReport)
        self._failed = frozenset(found.report.failed if known else ())
        return super().update_from_output(  # type: ignore[misc]
            scheduler_output, model_runner_output
        )

    def _handle_invalid_blocks(
        self, invalid_block_ids: set[int], num_scheduled_tokens: dict[str, int]
    ) -> set[str]:
        """The requests to fail, whatever blocks they have by now."""
        return {each for each in self._failed if each in self.requests}  # type: ignore[attr-defined]


class SessionScheduler(_FailsById, Scheduler):
    """Of steps one after the other."""


class AsyncSessionScheduler(_FailsById, AsyncScheduler):
    """Of steps scheduled ahead."""


def session_scheduler(*args: Any, **kwargs: Any) -> Scheduler:
    """The scheduler that a configuration asks for; vLLM settles that after the configuration
    hook, where the class must be named."""
    ahead = kwargs["vllm_config"].scheduler_config.async_scheduling
    made = AsyncSessionScheduler if ahead else SessionScheduler
    return made(*args, **kwargs)

"""vLLM's schedulers, made to fail exactly the requests whose slots failed, and to compute anew
what couldn't be loaded.

vLLM fails requests by the blocks that a connector couldn't load. It looks for such a block only
in requests that had computed tokens before the step. A request whose first step failed has none,
so it would go on, with a token sampled from nothing; and where steps are scheduled ahead, a block
may have changed hands by the time that its failure is known. So requests are found by id here.
A prefix that can't be loaded costs its request time, not its life: the request is preempted, as by
a reset of the prefix cache. vLLM's own way, `kv_load_failure_policy` "recompute", leaves the output
of steps scheduled ahead in place.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from vllm_npu_models.snapshots.messages import WorkerReport
from vllm_npu_models.snapshots.operations import Report

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput

_logger = logging.getLogger("vllm.npu")


class _FailsById(Scheduler):
    _failed: frozenset[str] = frozenset()

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> Any:
        """As vLLM's, but with the requests at hand that failed."""
        output = model_runner_output.kv_connector_output
        found = None if output is None else output.kv_connector_worker_meta
        report = found.report if isinstance(found, WorkerReport) else Report()
        self._failed = frozenset(report.failed)
        for each in report.unfilled:
            self._compute_anew(each)
        return super().update_from_output(scheduler_output, model_runner_output)

    def _compute_anew(self, name: str) -> None:
        request = self.requests.get(name)
        if request is None or request.is_finished():
            return
        # What the steps under way make of it is nothing.
        request.drop_stale_output = True
        if request.status is RequestStatus.RUNNING:
            self.running.remove(request)
            self._preempt_request(request, time.monotonic(), drop_stale_output=True)
            # It may be resumed in the very next step.
            self.prev_step_scheduled_req_ids.discard(name)

    def _handle_invalid_blocks(
        self, invalid_block_ids: set[int], num_scheduled_tokens: dict[str, int]
    ) -> set[str]:
        """The requests to fail, whatever blocks they have by now."""
        failed = {each for each in self._failed if each in self.requests}
        if failed:
            _logger.error("Failing requests whose slots failed: %s", ", ".join(sorted(failed)))
        return failed


class SessionScheduler(_FailsById):
    """Of steps one after the other."""


class AsyncSessionScheduler(_FailsById, AsyncScheduler):
    """Of steps scheduled ahead."""


def session_scheduler(*args: Any, **kwargs: Any) -> Scheduler:
    """The scheduler that a configuration asks for; vLLM settles that after the configuration
    hook, where the class must be named."""
    ahead = kwargs["vllm_config"].scheduler_config.async_scheduling
    made = AsyncSessionScheduler if ahead else SessionScheduler
    return made(*args, **kwargs)

"""vLLM's schedulers, which end requests whose numbers are NaN or infinite (see `nonfinite`).

vLLM counts such numbers and goes on. The blocks that such a request wrote are taken out of the
prefix cache, into which vLLM puts a block as soon as it is scheduled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import RequestStatus

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput


class _EndsNonFinite(Scheduler):
    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """As vLLM's; what these requests gave is dropped, and they end with an error."""
        counts = model_runner_output.num_nans_in_logits or {}
        spoilt = {name for name, count in counts.items() if count and name in self.requests}
        for name in spoilt:
            _drop(model_runner_output, name)
            self.kv_cache_manager.evict_blocks(
                {block for group in self.kv_cache_manager.get_block_ids(name) for block in group}
            )
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for request in self.finish_requests(spoilt, RequestStatus.FINISHED_ERROR) if spoilt else ():
            ended = EngineCoreOutput(
                request_id=request.request_id,
                new_token_ids=[],
                finish_reason=request.get_finished_reason(),
                events=request.take_events(),
                trace_headers=request.trace_headers,
                num_nans_in_logits=counts[request.request_id],
            )
            outputs.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(ended)
        return outputs


def _drop(output: ModelRunnerOutput, name: str) -> None:
    """Take away what a request gave in a step."""
    row = output.req_id_to_index[name]
    if output.sampled_token_ids:
        output.sampled_token_ids[row] = []
    if output.pooler_output:
        output.pooler_output[row] = None
    output.prompt_logprobs_dict.pop(name, None)
    output.prompt_token_id_logprobs_dict.pop(name, None)


class NPUScheduler(_EndsNonFinite):
    """Of steps one after the other."""


class AsyncNPUScheduler(_EndsNonFinite, AsyncScheduler):
    """Of steps scheduled ahead."""


def scheduler(*args: Any, **kwargs: Any) -> Scheduler:
    """The scheduler that a configuration asks for; whether steps are scheduled ahead is settled
    when it is made."""
    ahead = kwargs["vllm_config"].scheduler_config.async_scheduling
    return (AsyncNPUScheduler if ahead else NPUScheduler)(*args, **kwargs)

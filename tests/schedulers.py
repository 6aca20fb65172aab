"""A scheduler of a user's own, for the test that one may bring it."""

from __future__ import annotations

from typing import Any, ClassVar

from vllm.v1.core.sched.scheduler import Scheduler


class CountingScheduler(Scheduler):
    """vLLM's scheduler, which also counts its steps."""

    steps: ClassVar[int] = 0

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Count a step."""
        CountingScheduler.steps += 1
        return super().schedule(*args, **kwargs)


def steps_of(_worker: object) -> int:
    """The count, in the process where worker and scheduler live."""
    return CountingScheduler.steps

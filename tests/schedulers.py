"""A scheduler of a user's own, for the test that one may bring it."""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler


class OneAtATimeScheduler(Scheduler):
    """Lets one request run at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_num_running_reqs = 1

"""Several blocking calls at once, with a limit to their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Thread

from vllm_npu_runtime.errors import DeviceTimeoutError


def run(jobs: Sequence[Callable[[], None]], timeout: float | None) -> list[BaseException | None]:
    """Run jobs, each in a thread of its own; a single one without a limit runs in this thread.

    A thread that is past its time can't be stopped. It is a daemon, so that the process can end.

    Args:
        jobs: what to run.
        timeout: seconds for all of them, or None.

    Returns:
        What each raised, or None.

    Raises:
        DeviceTimeoutError: one has not ended in time.
    """
    raised: list[BaseException | None] = [None] * len(jobs)

    def call(index: int) -> None:
        try:
            jobs[index]()
        except BaseException as error:
            raised[index] = error

    if len(jobs) == 1 and timeout is None:
        call(0)
        return raised
    threads = [
        Thread(target=call, args=(index,), name=f"npu-copy-{index}", daemon=True)
        for index in range(len(jobs))
    ]
    end = None if timeout is None else time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(None if end is None else max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        raise DeviceTimeoutError(f"A step ran for more than {timeout:g} s.")
    return raised

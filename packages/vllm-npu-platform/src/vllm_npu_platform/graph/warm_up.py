"""Warm-up: compile and run every bucket once, before the first request."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vllm_npu_platform.graph.executor import GraphExecutor
from vllm_npu_platform.graph.logits import LogitsGraph
from vllm_npu_platform.processes.lifetime import stop_request

_logger = logging.getLogger("vllm.npu")

Begin: TypeAlias = Callable[[], Callable[[], None]]
"""Begins to make a graph; what it returns waits until it is made."""


def warm_up(executors: Sequence[GraphExecutor], heads: Sequence[LogitsGraph] = ()) -> float:
    """Compile all graphs, the largest first: a device that is too small says so early.

    Where the driver compiles aside, the next graphs are captured meanwhile.

    A terminal gets a progress bar; a log gets a line now and then. Both give an estimate from
    the graphs that are done.

    Returns:
        Seconds.

    Raises:
        SystemExit: the process was asked to stop.
    """
    work: list[tuple[str, Begin]] = [
        (f"{executor.prefix}{shape}", partial(executor.begin, shape))
        for executor in executors
        for shape in executor.shapes
    ]
    work += [(head.name, head.begin) for head in heads]
    at_once = min((each.at_once for each in executors), default=1)
    begin = said = time.perf_counter()
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    silent = not sys.stderr.isatty()
    with stop_request() as stop, Progress(*columns, console=console, disable=silent) as progress:
        task = progress.add_task("Compiling graphs", total=len(work))
        for done, (name, finish) in enumerate(_begun(work, at_once, stop.check), 1):
            progress.update(task, description=f"Compiling {name}")
            stop.check()
            finish()
            progress.advance(task)
            now = time.perf_counter()
            if progress.disable and now - said > 5:
                said = now
                left = (now - begin) / done * (len(work) - done)
                _logger.info("Compiled %d of %d graphs, about %.0f s left", done, len(work), left)
    for executor in executors:
        executor.seal()
    return time.perf_counter() - begin


def _begun(
    work: Iterable[tuple[str, Begin]], at_once: int, check: Callable[[], None]
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Begin all, in order; what finishes one comes when `at_once` others follow it."""
    begun: deque[tuple[str, Callable[[], None]]] = deque()
    for name, begin in work:
        if len(begun) >= at_once:
            yield begun.popleft()
        check()
        begun.append((name, begin()))
    yield from begun

"""Warm-up: compile and run every bucket once, before the first request."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vllm_npu_platform.graph.executor import GraphExecutor
from vllm_npu_platform.graph.logits import LogitsGraph
from vllm_npu_platform.processes.lifetime import stop_request

_logger = logging.getLogger("vllm.npu")


def warm_up(executors: Sequence[GraphExecutor], heads: Sequence[LogitsGraph] = ()) -> float:
    """Compile all graphs, the largest first: a device that is too small says so at once.

    A terminal gets a progress bar; a log gets a line now and then. Both give an estimate from
    the graphs that are done.

    Returns:
        Seconds.

    Raises:
        SystemExit: the process was asked to stop.
    """
    work: list[tuple[str, Callable[[], None]]] = [
        (f"{executor.prefix}{shape}", partial(executor.compile, shape))
        for executor in executors
        for shape in executor.shapes
    ]
    work += [(head.name, head.compile) for head in heads]
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
        for done, (name, compile_graph) in enumerate(work, 1):
            progress.update(task, description=f"Compiling {name}")
            stop.check()
            compile_graph()
            progress.advance(task)
            now = time.perf_counter()
            if progress.disable and now - said > 5:
                said = now
                left = (now - begin) / done * (len(work) - done)
                _logger.info("Compiled %d of %d graphs, about %.0f s left", done, len(work), left)
    for executor in executors:
        executor.seal()
    return time.perf_counter() - begin

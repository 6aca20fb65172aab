"""Progress of a long command: its stages, and how long the present one will go on."""

from __future__ import annotations

import sys
from types import TracebackType


class Stages:
    """One bar for each stage, on standard error; a line each where that is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TaskID,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bars = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:20}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task: TaskID | None = None

    def stage(self, name: str, total: int) -> None:
        """See `vllm_npu_runtime.export.progress.Progress`."""
        self._finish()
        if self._bars.disable:
            print(f"{name} …", file=sys.stderr, flush=True)
        self._task = self._bars.add_task(name, total=total if total > 1 else None)

    def advance(self, done: int) -> None:
        """See `vllm_npu_runtime.export.progress.Progress`."""
        if self._task is not None:
            self._bars.advance(self._task, done)

    def __enter__(self) -> Stages:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def _finish(self) -> None:
        if self._task is not None:
            total = self._bars.tasks[self._task].total or 1
            self._bars.update(self._task, total=total, completed=total)

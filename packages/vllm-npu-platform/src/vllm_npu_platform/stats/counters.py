"""The executor's counters, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vllm_npu_platform.graph.plan import Run
from vllm_npu_platform.stats.board import BoardWriter
from vllm_npu_platform.stats.start_times import PARTS, StartTimes

STEPS = "steps"
DEVICE_SECONDS = "device_seconds"
HOST_SECONDS = "host_seconds"
TOKENS = "tokens"
PADDED_TOKENS = "padded_tokens"
ROWS = "rows"
PADDED_ROWS = "padded_rows"
COMPILED = "graphs_compiled"
LOADED = "graphs_loaded"
LATE = "graphs_compiled_late"
COMPILE_SECONDS = "compile_seconds"
NONFINITE = "requests_nonfinite"
BUCKET = "bucket:"
START_SECONDS = "start_seconds:"

PLAIN = (
    STEPS,
    DEVICE_SECONDS,
    HOST_SECONDS,
    TOKENS,
    PADDED_TOKENS,
    ROWS,
    PADDED_ROWS,
    COMPILED,
    LOADED,
    LATE,
    COMPILE_SECONDS,
    NONFINITE,
)


@dataclass
class Counters:
    """Counts in this process, and on a board if there is one.

    Attributes:
        values: by name; seconds for times, else plain numbers.
        board: where the API server reads them.
        start: what the start spends its time on.
    """

    values: dict[str, float] = field(default_factory=dict)
    board: BoardWriter | None = None
    start: StartTimes = field(default_factory=StartTimes)

    def declare(self, buckets: Iterable[str]) -> tuple[str, ...]:
        """Start all counters at zero, those of the buckets included."""
        started = (START_SECONDS + part for part in PARTS)
        names = (*PLAIN, *started, *(BUCKET + bucket for bucket in buckets))
        self.values = dict.fromkeys(names, 0.0)
        return names

    def started(self) -> None:
        """The start is over: its parts are counted."""
        self.start.finish()
        for part, seconds in self.start.seconds.items():
            self.add(START_SECONDS + part, seconds)

    def show(self, board: BoardWriter) -> None:
        """Write on a board from now on, and what was counted before."""
        for name, value in self.values.items():
            board.add(name, value)
        self.board = board

    def add(self, name: str, amount: float = 1.0) -> None:
        """Count."""
        self.values[name] = self.values.get(name, 0.0) + amount
        if self.board is not None:
            self.board.add(name, amount)

    def run(self, prefix: str, run: Run, seconds: float) -> None:
        """Count one run of a graph.

        Args:
            prefix: "" for the model, "draft:" for a draft model.
            run: what ran.
            seconds: on the device.
        """
        self.add(f"{BUCKET}{prefix}{run.shape}")
        self.add(DEVICE_SECONDS, seconds)
        self.add(TOKENS, run.num_tokens)
        self.add(ROWS, run.num_requests)
        if not run.shape.dynamic:
            self.add(PADDED_TOKENS, run.shape.tokens - run.num_tokens)
            self.add(PADDED_ROWS, run.shape.requests - run.num_requests)

    def close(self) -> None:
        """Take the board away."""
        if self.board is not None:
            self.board.close()
            self.board = None

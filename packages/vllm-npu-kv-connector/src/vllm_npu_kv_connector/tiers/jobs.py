"""Transfers between the host's memory and a tier, while they run in several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vllm.v1.kv_offload.base import OffloadKey
from vllm.v1.kv_offload.tiering.base import JobResult, TransferJob


@dataclass
class Job:
    """One of vLLM's transfer jobs, and how far it has come.

    Attributes:
        transfer: the job.
        is_load: whether it goes from the tier to the host's memory.
    """

    transfer: TransferJob
    is_load: bool
    _done: set[OffloadKey] = field(default_factory=set)
    _bytes: int = 0
    _began: float | None = None
    _ended: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, key: OffloadKey, transfer: Callable[[], int]) -> None:
        """Transfer one block, in any thread.

        Args:
            key: of the block.
            transfer: does it; returns the bytes transferred. Whatever it raises is raised.
        """
        with self._timed():
            count = transfer()
        with self._lock:
            self._done.add(key)
            self._bytes += count

    def failed(self) -> list[OffloadKey]:
        """Blocks that weren't transferred, once all were tried."""
        return [key for key in self.transfer.keys if key not in self._done]

    def result(self) -> JobResult:
        """What vLLM is told, once all blocks were tried. Blocks of a load may succeed alone."""
        whole = not self.failed()
        partly = self._done if self.is_load and not whole else None
        return JobResult(
            job_id=self.transfer.job_id,
            success=whole,
            successful_keys=tuple(partly) if partly else None,
            transfer_time=self._ended - self._began if self._began is not None else None,
            transfer_bytes=self._bytes,
        )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        # By the clock, not added up: several blocks are under way at a time.
        with self._lock:
            if self._began is None:
                self._began = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._ended = time.monotonic()

"""The host tier's memory, shared by the scheduler's process and the worker's.

vLLM gives it a name in /dev/shm, by which the scheduler's process finds it. A name that stays
keeps gigabytes when its engine is gone, so it goes as soon as both have the memory, and with the
worker's process if it doesn't come to that.
"""

from __future__ import annotations

from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion


class WorkerRegion(SharedOffloadRegion):
    """vLLM's region, whose name may be gone before it is closed, and never stays after."""

    def __init__(self, engine_id: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(engine_id, *args, **kwargs)
        if self._creator:
            Finalize(self, forget, args=(engine_id,), exitpriority=0)

    def cleanup(self) -> None:
        """Unmap, and remove the name if it is still there."""
        self._creator: bool = self._creator and Path(self.mmap_path).exists()
        super().cleanup()


def forget(engine_id: str) -> None:
    """Remove the name of an engine's region, if it is there; who has the memory keeps it."""
    Path(f"/dev/shm/vllm_offload_{engine_id}.mmap").unlink(missing_ok=True)  # as vLLM names it

"""The host tier's memory, shared by the scheduler's process and the worker's."""

from __future__ import annotations

from pathlib import Path

from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion


class WorkerRegion(SharedOffloadRegion):
    """vLLM's region, whose name in the file system may be gone before it is closed."""

    def cleanup(self) -> None:
        """Unmap, and remove the name if it is still there."""
        self._creator: bool = self._creator and Path(self.mmap_path).exists()
        super().cleanup()


def forget(region: SharedOffloadRegion | None) -> None:
    """Remove the region's name once all have mapped it.

    The memory then goes with its last process, however that ends; else an engine that is killed
    leaves gigabytes behind in /dev/shm. The scheduler's process is the last to map it: if it was
    the first, others are still to come.
    """
    if region is not None and not region._creator:
        Path(region.mmap_path).unlink(missing_ok=True)

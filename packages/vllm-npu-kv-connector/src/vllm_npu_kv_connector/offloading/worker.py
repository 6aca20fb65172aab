"""Copies between the device's KV cache and the host tier, in a thread beside the steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from vllm.v1.kv_offload.base import (
    BlockIDsLoadStoreSpec,
    CanonicalKVCaches,
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)

from vllm_npu_runtime.kv_copies import PageCopies, pages_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion


@dataclass(frozen=True)
class _Group:
    """A group of layers' pages on both sides.

    Attributes:
        device: each int8 `[blocks, 1, page bytes]`.
        host: each int8 `[chunks, blocks in a chunk, page bytes]`, in the region.
        bytes: of a block, all pages together.
    """

    device: list[torch.Tensor]
    host: list[torch.Tensor]
    bytes: int


class NPUOffloadingWorker(OffloadingWorker):
    """Runs transfers in the order in which they are submitted.

    The device's cache is memory that the host sees, whatever the driver keeps in it, and a block
    is one contiguous page of each layer. vLLM doesn't reuse a block before its transfer has
    ended, so a copy may run while the device computes.

    Args:
        kv_caches: the device's, as vLLM has sorted them.
        blocks_per_chunk: of the device, in one chunk of the host tier.
        region: the host tier's memory; closed with this worker.
    """

    def __init__(
        self, kv_caches: CanonicalKVCaches, blocks_per_chunk: int, region: SharedOffloadRegion
    ) -> None:
        self._blocks_per_chunk = blocks_per_chunk
        self._region = region
        pages = []
        for each in kv_caches.tensors:
            size = each.page_size_bytes
            host = region.create_next_worker_view(size * blocks_per_chunk)
            pages.append((pages_of(each.tensor, size), pages_of(host, size)))
        self._groups = [
            _Group(
                [pages[ref.tensor_idx][0][..., : ref.page_size_bytes] for ref in refs],
                [pages[ref.tensor_idx][1][..., : ref.page_size_bytes] for ref in refs],
                sum(ref.page_size_bytes for ref in refs),
            )
            for refs in kv_caches.group_data_refs
        ]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="npu-kv-copies")
        self._running: dict[int, Future[tuple[TransferResult, PageCopies]]] = {}

    def submit_store(
        self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec
    ) -> bool:
        """Begin to copy from the device to the host tier."""
        self._running[job_id] = self._thread.submit(self._run, job_id, src_spec, dst_spec, True)
        return True

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        """Begin to copy from the host tier to the device."""
        self._running[job_id] = self._thread.submit(self._run, job_id, dst_spec, src_spec, False)
        return True

    def get_finished(self) -> list[TransferResult]:
        """Transfers that ended since the last call, with bytes and seconds.

        Raises:
            Exception: what a copy raised, as vLLM has no way to go on without its blocks.
        """
        done = [job for job, running in self._running.items() if running.done()]
        # The copies' thousands of views end here: in their own thread each would give up the GIL,
        # and wait for this one to give it back.
        return [self._running.pop(job).result()[0] for job in done]

    def wait(self, job_ids: set[int]) -> None:
        """Until these transfers have ended; `get_finished` still tells of them."""
        wait([self._running[job] for job in job_ids if job in self._running])

    def shutdown(self) -> None:
        """End what runs, and give the host tier's memory back."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._running.clear()
        # They hold the region's memory.
        self._groups = []
        self._region.cleanup()

    def _run(
        self, job_id: int, device: GPULoadStoreSpec, host: LoadStoreSpec, store: bool
    ) -> tuple[TransferResult, PageCopies]:
        begun = time.perf_counter()
        copies, copied = PageCopies(), 0
        for group, blocks, slots in self._matched(device, host):
            if store:
                copies.add(group.device, blocks, group.host, slots)
            else:
                copies.add(group.host, slots, group.device, blocks)
            copied += group.bytes * len(blocks)
        copies.make()
        return TransferResult(job_id, True, copied, time.perf_counter() - begun), copies

    def _matched(
        self, device: GPULoadStoreSpec, host: LoadStoreSpec
    ) -> Iterator[tuple[_Group, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Each group, its blocks on the device, and their places in the host tier.

        A group's first block may lie in the middle of a chunk, and its last one too.
        """
        assert isinstance(host, BlockIDsLoadStoreSpec)
        per_chunk = self._blocks_per_chunk
        first_block = first_chunk = 0
        sizes, indices = device.group_sizes, device.block_indices
        for group, count, index in zip(self._groups, sizes, indices, strict=True):
            if count == 0:
                continue
            skipped = index % per_chunk
            positions = np.arange(skipped, skipped + count)
            chunks = host.block_ids[first_chunk:].astype(np.int64)
            slots = chunks[positions // per_chunk] * per_chunk + positions % per_chunk
            yield group, device.block_ids[first_block : first_block + count].astype(np.int64), slots
            first_block += count
            first_chunk += -(-(skipped + count) // per_chunk)

"""Transfers between the device's blocks and the host tier's chunks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from vllm.v1.kv_offload.base import (
    CanonicalKVCacheRef,
    CanonicalKVCaches,
    CanonicalKVCacheTensor,
    GPULoadStoreSpec,
)
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec

from vllm_npu_kv_connector.offloading.region import WorkerRegion
from vllm_npu_kv_connector.offloading.worker import NPUOffloadingWorker

BLOCKS, PAGE, LAYERS = 12, 24, 3
Make = Callable[[int], tuple[NPUOffloadingWorker, list[torch.Tensor]]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Workers over caches of random bytes, by how many blocks a chunk has."""
    running = []

    def build(per_chunk: int) -> tuple[NPUOffloadingWorker, list[torch.Tensor]]:
        torch.manual_seed(0)
        caches = [torch.randint(-128, 128, (BLOCKS, PAGE), dtype=torch.int8) for _ in range(LAYERS)]
        region = WorkerRegion(
            engine_id=str(uuid.uuid4()),
            num_chunks=8,
            rank=0,
            kv_bytes_per_chunk=4096,
            cpu_page_size=PAGE * LAYERS * per_chunk,
        )
        tensors = [CanonicalKVCacheTensor(cache, PAGE) for cache in caches]
        refs = [CanonicalKVCacheRef(index, PAGE) for index in range(LAYERS)]
        # Two groups of layers, as a model with sliding windows has.
        worker = NPUOffloadingWorker(
            CanonicalKVCaches(tensors, [refs[:2], refs[2:]]), per_chunk, region
        )
        running.append(worker)
        return worker, caches

    yield build
    for worker in running:
        worker.shutdown()


def finish(worker: NPUOffloadingWorker, job: int) -> int:
    worker.wait({job})
    (result,) = worker.get_finished()
    assert (result.job_id, result.success) == (job, True)
    assert result.transfer_size is not None
    return result.transfer_size


def test_what_is_stored_comes_back_elsewhere(make: Make) -> None:
    worker, caches = make(1)
    before = [cache.clone() for cache in caches]
    chunks = CPULoadStoreSpec([5, 0, 3, 7])
    source = GPULoadStoreSpec([1, 2, 9, 4], group_sizes=[3, 1], block_indices=[0, 0])
    worker.submit_store(0, source, chunks)
    assert finish(worker, 0) == (3 * 2 + 1) * PAGE
    target = GPULoadStoreSpec([10, 11, 6, 8], group_sizes=[3, 1], block_indices=[0, 0])
    worker.submit_load(1, chunks, target)
    finish(worker, 1)
    for cache, old in zip(caches[:2], before[:2], strict=True):
        assert torch.equal(cache[[10, 11, 6]], old[[1, 2, 9]])
    assert torch.equal(caches[2][8], before[2][4])
    untouched = [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert torch.equal(caches[0][untouched], before[0][untouched])


def test_a_load_may_begin_and_end_inside_a_chunk(make: Make) -> None:
    """Of two chunks of four blocks, blocks 2 to 5 are wanted."""
    worker, caches = make(4)
    before = [cache.clone() for cache in caches]
    chunks = CPULoadStoreSpec([6, 1])
    whole = list(range(8))
    worker.submit_store(0, GPULoadStoreSpec(whole, [8, 0], [0, 0]), chunks)
    finish(worker, 0)
    worker.submit_load(1, chunks, GPULoadStoreSpec([11, 10, 9, 8], [4, 0], [2, 0]))
    finish(worker, 1)
    for cache, old in zip(caches[:2], before[:2], strict=True):
        assert torch.equal(cache[[11, 10, 9, 8]], old[[2, 3, 4, 5]])
    assert torch.equal(caches[2], before[2])


def test_transfers_run_in_the_order_of_their_submission(make: Make) -> None:
    worker, caches = make(1)
    first = caches[0][1].clone()
    for job in range(0, 40, 2):
        worker.submit_store(job, GPULoadStoreSpec([1], [1, 0], [0, 0]), CPULoadStoreSpec([0]))
        worker.submit_load(job + 1, CPULoadStoreSpec([0]), GPULoadStoreSpec([2], [1, 0], [0, 0]))
    worker.wait(set(range(40)))
    assert sorted(result.job_id for result in worker.get_finished()) == list(range(40))
    assert torch.equal(caches[0][2], first)
    assert worker.get_finished() == []


def test_shutting_down_ends_what_runs_and_frees_the_region(make: Make) -> None:
    worker, _ = make(1)
    path = worker._region.mmap_path
    worker.submit_store(0, GPULoadStoreSpec([1], [1, 0], [0, 0]), CPULoadStoreSpec([0]))
    worker.shutdown()
    assert not Path(path).exists()

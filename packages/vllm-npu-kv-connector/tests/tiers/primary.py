"""The host's tier, and vLLM's manager of tiers over it, without an engine."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import numpy as np
from vllm.v1.kv_offload.base import LookupResult, OffloadKey, ReqContext, ScheduleEndContext
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob
from vllm.v1.kv_offload.tiering.manager import (
    CPUPrimaryTierOffloadingManager,
    TieringOffloadingManager,
)

from .blocks import MODEL, content, key

BLOCK = 4096
SPEC = SimpleNamespace(identity=MODEL)
END_OF_STEP = ScheduleEndContext(new_req_ids=(), preempted_req_ids=())


def wait_for(done: Callable[[], object], seconds: float = 10.0) -> None:
    """Until it is true; fails if it never is."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


class Tiered:
    """vLLM's manager over a small host tier, driven as its scheduler's side of a connector does."""

    def __init__(
        self, chunks: int, make_tiers: Callable[[memoryview], list[SecondaryTierManager]]
    ) -> None:
        self.region = SharedOffloadRegion(
            engine_id=f"test-{uuid.uuid4().hex}",
            num_chunks=chunks,
            rank=None,
            kv_bytes_per_chunk=BLOCK,
            cpu_page_size=BLOCK,
        )
        primary = CPUPrimaryTierOffloadingManager(num_chunks=chunks, mmap_region=self.region)
        self.rows = self.region.base_tensor.view(chunks, BLOCK).numpy().view(np.uint8)
        self.tiers = make_tiers(primary.get_kv_memoryview())
        self.manager = TieringOffloadingManager(primary, self.tiers)
        self._requests = 0

    def request(self) -> ReqContext:
        """A new one."""
        self._requests += 1
        context = ReqContext(req_id=f"request {self._requests}")
        self.manager.on_new_request(context)
        return context

    def step(self) -> None:
        """End a step of the scheduler."""
        self.manager.on_schedule_end(END_OF_STEP)

    def store(self, numbers: Iterable[int]) -> None:
        """What a request computed goes to the host's tier, and on to the others."""
        context = self.request()
        plan = self.manager.prepare_store([_key(number) for number in numbers], context)
        assert plan is not None
        assert isinstance(plan.store_spec, CPULoadStoreSpec)
        by_key = {_key(number): number for number in numbers}
        for block, chunk in zip(plan.keys_to_store, plan.store_spec.chunk_ids, strict=True):
            self.rows[chunk] = np.frombuffer(content(by_key[block], BLOCK), dtype=np.uint8)
        if plan.keys_to_store:
            self.manager.complete_store(plan.keys_to_store, context)
        self.manager.on_request_finished(context)
        self.settle()

    def settle(self) -> None:
        """Step until nothing is under way."""

        def settled() -> bool:
            self.step()
            return not self.manager.has_pending_work()

        wait_for(settled)

    def load(self, numbers: Iterable[int]) -> list[bool]:
        """Which blocks a request gets; fails if one comes back otherwise than it was stored."""
        context, keys = self.request(), [_key(number) for number in numbers]
        answers: list[LookupResult] = []

        def answered() -> bool:
            answers[:] = [self.manager.lookup(each, context) for each in keys]
            self.step()
            return {LookupResult.RETRY, LookupResult.HIT_PENDING}.isdisjoint(answers)

        wait_for(answered)
        hits = [answer is LookupResult.HIT for answer in answers]
        found = [each for each, hit in zip(keys, hits, strict=True) if hit]
        spec = self.manager.prepare_load(found, context)
        assert isinstance(spec, CPULoadStoreSpec)
        wanted = [number for number, hit in zip(numbers, hits, strict=True) if hit]
        for number, chunk in zip(wanted, spec.chunk_ids, strict=True):
            assert self.rows[chunk].tobytes() == content(number, BLOCK), number
        self.manager.complete_load(found, context)
        self.manager.on_request_finished(context)
        return hits

    def forget(self) -> None:
        """Empty the host's tier alone."""
        self.manager.reset_cache()

    def close(self) -> None:
        """As an engine ends."""
        del self.rows
        self.manager.shutdown()


def job(number: int, blocks: dict[int, int], is_promotion: bool) -> TransferJob:
    """One of vLLM's.

    Args:
        number: of the job.
        blocks: row of the host's tier by number of the block.
        is_promotion: whether it is a load.
    """
    return TransferJob(
        job_id=number,
        keys=[_key(each) for each in blocks],
        chunk_ids=np.array(list(blocks.values()), dtype=np.int32),
        is_promotion=is_promotion,
        req_context=ReqContext(req_id="request"),
    )


def finished(tier: SecondaryTierManager) -> list[JobResult]:
    """All that the tier was given, once done."""
    tier.drain_jobs()
    return list(tier.get_finished_jobs())


def _key(number: int) -> OffloadKey:
    return OffloadKey(key(number))

"""vLLM's side of a tier: looks up, stores and loads blocks of the host's tier in threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, ClassVar

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import (
    OffloadingConnectorStats,
)
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingMetricMetadata,
    OffloadingSpec,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.tiering.backpressure import BackpressureDetector
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob
from vllm.v1.kv_offload.tiering.fs.thread_pool import DualQueueThreadPool

from vllm_npu_kv_connector.tiers import metrics
from vllm_npu_kv_connector.tiers.jobs import Job
from vllm_npu_kv_connector.tiers.limited_log import LimitedLog
from vllm_npu_kv_connector.tiers.lookups import Lookups
from vllm_npu_kv_connector.tiers.store import BlockStore, StoreError

_logger = logging.getLogger("vllm.npu")

# Uses of blocks that the device still had are told to the store together, this often.
_TOUCH_EVERY_S = 5.0
# What is still to be stored as the engine ends is worth this much waiting.
_LAST_STORES_S = 3.0


class StoreTierManager(SecondaryTierManager):
    """A tier of vLLM's offloading over any `BlockStore`.

    What fails in the store is a block that isn't there: its lookup is a miss from then on, until
    the request ends, and the block is computed anew. Nothing is raised into the scheduler.

    Attributes:
        loads: whether to load from it now; if not, all that it has are misses.
        metrics_label: of the tier in metrics. vLLM numbers tiers there, as in ``1:npu_fs``, which
            only who makes them all can know, and may set.
    """

    medium: ClassVar[Medium | None] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: OffloadingSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        store: BlockStore,
        *,
        n_read_threads: int = 2,
        n_write_threads: int = 1,
        locality: str | None = None,
        backpressure_detector: BackpressureDetector | None = None,
    ) -> None:
        """Start the threads.

        Args:
            offloading_spec: as vLLM gives it.
            primary_kv_view: the host's tier, shape [blocks, bytes of a block], one byte each.
            tier_type: the tier's name for vLLM.
            store: keeps the blocks; closed with the tier.
            n_read_threads: threads that load first, and store when there is nothing to load.
            n_write_threads: threads that store first.
            locality: ``LOCAL`` or ``REMOTE``, for requests that name the tiers they want.
            backpressure_detector: vLLM's, if stores shall be left out while the tier is slow.
        """
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self.locality = Locality(locality) if locality is not None else None
        self.loads = True
        self.metrics_label = tier_type
        self._store = store
        self._bytes = primary_kv_view.cast("B")
        self._jobs: dict[int, Job] = {}
        self._log = LimitedLog(_logger)
        self._touched: dict[OffloadKey, None] = {}
        self._told = time.monotonic()
        self._stats_begun = False
        self._kept_bytes: int | None = None
        self._pool = DualQueueThreadPool(n_read_threads, n_write_threads, f"vllm_kv_{tier_type}")
        self._lookups = Lookups(tier_type, store)

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """As of vLLM: blocks are stored as they come."""
        return RequestOffloadingContext()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """As of vLLM; to be asked again where the store takes its time."""
        if not self.loads:
            return LookupResult.MISS
        found = self._lookups.lookup(key, req_context)
        if found is None:
            return LookupResult.RETRY
        return LookupResult.HIT if found else LookupResult.MISS

    def submit_store(self, job_metadata: TransferJob) -> None:
        """As of vLLM."""
        self._submit(Job(job_metadata, is_load=False))

    def submit_load(self, job_metadata: TransferJob) -> None:
        """As of vLLM."""
        self._submit(Job(job_metadata, is_load=True))

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """As of vLLM; blocks that couldn't be loaded are misses from now on."""
        results = []
        for job_id, _, _ in self._pool.get_finished():
            job = self._jobs.pop(job_id, None)
            if job is None:
                continue  # one of touches
            if job.is_load:
                self._lookups.mark_miss(job.failed())
            results.append(job.result())
        return results

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        """As of vLLM."""
        self._touched.update(dict.fromkeys(keys))

    def on_request_finished(self, req_context: ReqContext) -> None:
        """As of vLLM."""
        self._lookups.cleanup(req_context.req_id)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        """As of vLLM: sends off what was collected during the step."""
        self._lookups.flush()
        now = time.monotonic()
        if self._touched and now - self._told >= _TOUCH_EVERY_S:
            keys, self._touched, self._told = list(self._touched), {}, now
            # vLLM's jobs are numbered from 0.
            self._pool.enqueue_store(-1, 1, [partial(self._store.touch, keys)])

    def drain_jobs(self) -> None:
        """As of vLLM."""
        self._pool.wait_idle()

    def shutdown(self) -> None:
        """As of vLLM: stores that are under way are finished, if that doesn't take long."""
        last = threading.Thread(target=self._pool.wait_idle, daemon=True)
        last.start()
        last.join(_LAST_STORES_S)
        self._pool.shutdown(wait=True)
        self._lookups.shutdown()
        self._store.close()
        self._bytes.release()

    @classmethod
    def build_metric_definitions(
        cls, extra_config: dict[str, Any]
    ) -> dict[str, OffloadingMetricMetadata]:
        """As of vLLM."""
        return metrics.definitions()

    def get_stats(self) -> OffloadingConnectorStats | None:
        """As of vLLM."""
        stats = OffloadingConnectorStats()
        if not self._stats_begun:
            self._stats_begun = True
            metrics.record_nothing(stats, self.metrics_label)
        metrics.record(stats, self.metrics_label, self._store.tally.take())
        kept = self._store.kept_bytes()
        if kept is not None and kept != self._kept_bytes:
            self._kept_bytes = kept
            stats.set_gauge(metrics.KEPT_BYTES, kept, (self.metrics_label,))
        return None if stats.is_empty() else stats

    def _submit(self, job: Job) -> None:
        transfer = job.transfer
        self._jobs[transfer.job_id] = job
        tasks: list[Callable[[], None]] = [
            partial(self._run, job, key, int(chunk) * self._block_size_bytes)
            for key, chunk in zip(transfer.keys, transfer.chunk_ids, strict=True)
        ]
        enqueue = self._pool.enqueue_load if job.is_load else self._pool.enqueue_store
        # One without blocks has to be finished too.
        enqueue(transfer.job_id, len(tasks) or 1, tasks or [_nothing])

    def _run(self, job: Job, key: OffloadKey, offset: int) -> None:
        try:
            with self._bytes[offset : offset + self._block_size_bytes] as block:
                job.run(key, partial(self._load if job.is_load else self._store.write, key, block))
        except StoreError:
            pass  # The store has logged and counted it.
        except Exception as error:
            self._log.warning("bug", "KV tier %s: block lost to %r.", self.tier_type, error)

    def _load(self, key: OffloadKey, block: memoryview) -> int:
        self._store.read(key, block)
        return block.nbytes


def _nothing() -> None: ...

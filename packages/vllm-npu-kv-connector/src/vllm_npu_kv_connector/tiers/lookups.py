"""Asking a store which blocks it has, without holding up the scheduler."""

from __future__ import annotations

import time
from collections.abc import Iterable

from vllm.v1.kv_offload.base import OffloadKey, ReqContext
from vllm.v1.kv_offload.tiering.async_lookup import AsyncLookupManager, LookupPhase

from vllm_npu_kv_connector.tiers.store import BlockStore

_SLOW_S = 0.001
_PAUSE_S = 10.0


class Lookups(AsyncLookupManager):
    """vLLM's, which asks in a thread and answers a step later; a store at hand is asked at once.

    A prompt that waits a step for its answer is computed in a step of its own rather than with
    those that came with it, which costs more than the question. Once a store at hand was slow it
    is asked in the thread, for a while.

    Args:
        tier_type: the tier's name for vLLM.
        store: to ask.
    """

    def __init__(self, tier_type: str, store: BlockStore) -> None:
        super().__init__(tier_type)
        self._store = store
        self._at_once_from = 0.0 if store.at_hand else float("inf")

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> bool | None:
        """As of vLLM: whether the store has it; None if that is to be asked again."""
        found = super().lookup(key, req_context)
        began = time.monotonic()
        if found is not None or began < self._at_once_from:
            return found
        if not self._lookup_batch or self._lookup_batch[-1][0] != key:
            return found  # The thread was asked before.
        self._lookup_batch.pop()
        (found,) = self._store.contains([key])
        state = self._lookup_state[key]
        state.result, state.phase = found, LookupPhase.RESOLVED
        ended = time.monotonic()
        if ended - began > _SLOW_S:
            self._at_once_from = ended + _PAUSE_S
        return found

    def batch_lookup(self, keys: list[OffloadKey], req_context: ReqContext) -> Iterable[bool]:
        """As of vLLM, in its thread."""
        return self._store.contains(keys)

"""Waiting, in a decode engine, for KV that a prefill engine is just putting into a shared tier.

A prefill engine answers as soon as it has computed, and stores beside that; asked at once, the tier
wouldn't have the prompt yet, and it would be computed a second time. So a request that comes with
a prefill engine's answer waits, for a moment at most, until the prompt's chunks are there. The
engine serves others meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vllm.v1.kv_offload.base import LookupResult, ReqContext, make_offload_key

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import OffloadKey
    from vllm.v1.kv_offload.tiering.base import SecondaryTierManager
    from vllm.v1.request import Request

_logger = logging.getLogger("vllm.npu")

ASKED = {"do_remote_decode": True}
"""What a proxy asks of a prefill engine; vLLM's name, as for NIXL."""

ANSWER: dict[str, Any] = {"do_remote_prefill": True, "do_remote_decode": False}
"""What a prefill engine answers, and a proxy hands to a decode engine."""

_AGAIN_S = 0.005


class Group(Protocol):
    """A group of layers, as vLLM's offloading scheduler has it.

    Attributes:
        group_idx: among vLLM's groups.
        tokens_per_chunk: in the unit that is stored.
        hashes_per_chunk: of vLLM's block hashes in one.
        sliding_window_size_in_chunks: None for full attention.
    """

    group_idx: int
    tokens_per_chunk: int
    hashes_per_chunk: int
    sliding_window_size_in_chunks: int | None


@dataclass
class _Wait:
    """One request's.

    Attributes:
        deadline: when it is computed instead.
        again: when to ask the tiers again.
        probe: under which they are asked, so that a miss isn't remembered as the request's own.
    """

    deadline: float
    again: float
    probe: ReqContext


class Arrivals:
    """Which requests wait. Used by the scheduler's thread alone.

    Args:
        tiers: where the KV may arrive.
        groups: all of them have to have it.
        timeout: seconds until a request is computed instead.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        tiers: Sequence[SecondaryTierManager],
        groups: Sequence[Group],
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tiers = tiers
        self._groups = groups
        self._timeout = timeout
        self._clock = clock
        self._waits: dict[str, _Wait] = {}
        self._done: set[str] = set()

    def awaits(self, request: Request, computed: int) -> bool:
        """Whether a request is to be asked for again later.

        Args:
            request: vLLM's.
            computed: tokens of it whose KV the device has.
        """
        if not _is_prefilled(request.kv_transfer_params) or request.request_id in self._done:
            return False
        keys = self._keys(request, computed)
        tiers = [tier for tier in self._tiers if getattr(tier, "loads", True)]
        if not keys or not tiers or request.skip_reading_prefix_cache:
            return False
        now = self._clock()
        wait = self._waits.get(request.request_id)
        if wait is None:
            probe = ReqContext(req_id=f"{request.request_id}/arrival")
            wait = self._waits[request.request_id] = _Wait(now + self._timeout, now, probe)
        if now < wait.again:
            return True
        found = [_found(tier, keys, wait.probe) for tier in tiers]
        if LookupResult.HIT in found:
            self._end(request.request_id)
            return False
        if now >= wait.deadline:
            _logger.warning(
                "KV of request %s didn't reach a shared tier within %g s; its prompt is computed.",
                *(request.request_id, self._timeout),
            )
            self._end(request.request_id)
            return False
        if LookupResult.RETRY not in found:
            self._forget_probe(wait.probe)
            wait.again = now + _AGAIN_S
        return True

    def forget(self, request_id: str) -> None:
        """A request has ended, or was aborted."""
        self._end(request_id)
        self._done.discard(request_id)

    def _end(self, request_id: str) -> None:
        if (wait := self._waits.pop(request_id, None)) is not None:
            self._forget_probe(wait.probe)
            self._done.add(request_id)

    def _forget_probe(self, probe: ReqContext) -> None:
        for tier in self._tiers:
            tier.on_request_finished(probe)

    def _keys(self, request: Request, computed: int) -> list[OffloadKey]:
        """Of the prompt's whole chunks that the device hasn't; of a window, the last one's."""
        keys = []
        for group in self._groups:
            chunks = request.num_prompt_tokens // group.tokens_per_chunk
            first = computed // group.tokens_per_chunk
            if group.sliding_window_size_in_chunks is not None:
                first = max(first, chunks - 1)
            for chunk in range(first, chunks):
                block_hash = request.block_hashes[(chunk + 1) * group.hashes_per_chunk - 1]
                keys.append(make_offload_key(block_hash, group.group_idx))
        return keys


def answer(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a prefill engine says of a request that has ended, if a proxy asked it to prefill."""
    asked = params is not None and bool(params.get("do_remote_decode"))
    return dict(ANSWER) if asked else None


def _is_prefilled(params: Mapping[str, Any] | None) -> bool:
    return params is not None and bool(params.get("do_remote_prefill"))


def _found(
    tier: SecondaryTierManager, keys: Sequence[OffloadKey], probe: ReqContext
) -> LookupResult:
    """What a tier says of keys that are of use together only."""
    # All are looked up before one is answered for, so that a tier asks for them at once.
    results = {tier.lookup(key, probe) for key in keys}
    for result in (LookupResult.RETRY, LookupResult.MISS):
        if result in results:
            return result
    return LookupResult.HIT

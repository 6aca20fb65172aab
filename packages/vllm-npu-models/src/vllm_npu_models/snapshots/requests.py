"""What a vLLM request's keys and values are known by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.request import RequestStatus

from vllm_npu_models.snapshots.prefix import Prefix, foreign_symbols, seed_of

if TYPE_CHECKING:
    from vllm.v1.request import Request

_KEPT = (
    RequestStatus.FINISHED_STOPPED,
    RequestStatus.FINISHED_LENGTH_CAPPED,
    RequestStatus.FINISHED_ABORTED,
    RequestStatus.FINISHED_REPETITION,
)


class Prefixes:
    """Prefixes of requests that are under way, each hashed once."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._by_request: dict[str, Prefix] = {}

    def of(self, request: Request) -> Prefix | None:
        """The prefix of all tokens so far; None: nothing of the request can be shared."""
        if not _shareable(request):
            return None
        prefix = self._by_request.get(request.request_id)
        if prefix is None:
            prefix = Prefix(_seed(request), self._block_size, _prompt(request))
            self._by_request[request.request_id] = prefix
        prefix.extend(request.all_token_ids[len(prefix) : request.num_tokens])
        return prefix

    def left_by(self, request: Request) -> Prefix | None:
        """The prefix of what a finished request leaves in its slot; None: nothing to keep.

        The last token was sampled, but not computed; and where steps are scheduled ahead, the
        count of computed tokens is ahead of the tokens that are known.
        """
        prefix = self.of(request)
        self._by_request.pop(request.request_id, None)
        if prefix is None or request.status not in _KEPT:
            return None
        return prefix.cut(min(request.num_computed_tokens, request.num_tokens - 1))


def _shareable(request: Request) -> bool:
    # Embeddings stand behind token ids that are all zero. A session of streamed input goes back
    # on what it has computed.
    return request.prompt_embeds is None and not request.resumable


def _seed(request: Request) -> bytes:
    lora = request.lora_request
    adapter = None if lora is None else (lora.lora_name, lora.lora_path)
    return seed_of(adapter, request.cache_salt or None)


def _prompt(request: Request) -> list[int]:
    symbols = list(request.all_token_ids[: request.num_prompt_tokens])
    for feature in request.mm_features:
        start, count = feature.mm_position.offset, feature.mm_position.length
        symbols[start : start + count] = foreign_symbols(feature.identifier, count)
    return symbols

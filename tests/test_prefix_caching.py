"""Automatic prefix caching: shared beginnings are computed once, and change no token."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.asking import ask, expected, greedy, passage, tokens_of
from tests.conftest import ARTIFACT, SCARCE
from tests.prompts import mixed_prompts

if TYPE_CHECKING:
    from tests.conftest import Engines

NEW_TOKENS = 12


def prompts_with_a_shared_beginning(path: Path, shared: int, count: int) -> list[list[int]]:
    beginning = passage(path, shared)
    endings = mixed_prompts(path, count=count, longest=40)
    return [beginning + ending for ending in endings]


def test_hits_are_counted_and_tokens_stay(
    engines: Engines, tiny_model: Callable[[str], Path], way: str
) -> None:
    path = tiny_model("llama")
    prompts = prompts_with_a_shared_beginning(path, 300, 6)
    llm = engines.get("llama", way)
    llm.reset_prefix_cache()
    one_by_one = [ask(llm, [prompt], NEW_TOKENS)[0] for prompt in prompts]
    assert tokens_of(one_by_one) == expected(path, prompts, NEW_TOKENS)
    assert all(output.num_cached_tokens >= 288 for output in one_by_one[1:])


def test_requests_that_share_a_beginning_in_the_same_step(
    engines: Engines, tiny_model: Callable[[str], Path], way: str
) -> None:
    """The second reads blocks that the first writes in this very step."""
    path = tiny_model("llama")
    prompts = prompts_with_a_shared_beginning(path, 48, 8)
    llm = engines.get("llama", way)
    llm.reset_prefix_cache()
    outputs = ask(llm, prompts, NEW_TOKENS)
    assert any(output.num_cached_tokens for output in outputs)
    assert tokens_of(outputs) == expected(path, prompts, NEW_TOKENS)


def test_sliding_window_layers_keep_their_own_blocks(
    engines: Engines, tiny_model: Callable[[str], Path], way: str
) -> None:
    path = tiny_model("exaone4")
    prompts = prompts_with_a_shared_beginning(path, 200, 4)
    llm = engines.get("exaone4", way, **{"max_num_batched_tokens": 128})
    llm.reset_prefix_cache()
    reference = expected(path, prompts, NEW_TOKENS)
    assert [greedy(llm, [prompt], NEW_TOKENS)[0] for prompt in prompts] == reference
    assert greedy(llm, prompts, NEW_TOKENS) == reference


def test_turned_off_nothing_is_cached(
    engines: Engines, tiny_model: Callable[[str], Path], way: str
) -> None:
    path = tiny_model("llama")
    prompts = prompts_with_a_shared_beginning(path, 100, 3)
    options = {"enable_prefix_caching": False} if way == ARTIFACT else SCARCE
    llm = engines.get("llama", way, **options)
    outputs = [ask(llm, [prompt], NEW_TOKENS)[0] for prompt in prompts]
    assert not any(output.num_cached_tokens for output in outputs)
    assert tokens_of(outputs) == expected(path, prompts, NEW_TOKENS)


def test_kv_events_tell_which_blocks_are_stored(
    engines: Engines, tiny_model: Callable[[str], Path]
) -> None:
    """Events over ZeroMQ, as a router that places requests by prefix reads them."""
    import msgspec
    import zmq
    from vllm.config import KVEventsConfig
    from vllm.distributed.kv_events import BlockStored, KVEventBatch
    from vllm.utils.network_utils import get_open_port

    port = get_open_port()
    config = KVEventsConfig(
        enable_kv_cache_events=True, publisher="zmq", endpoint=f"tcp://*:{port}"
    )
    llm = engines.get("llama", "paged", kv_events_config=config)
    prompt = passage(tiny_model("llama"), 64)
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        time.sleep(1.0)  # A subscriber misses what was sent before it was known.
        greedy(llm, [prompt], NEW_TOKENS)
        assert socket.poll(10_000)
        payload = socket.recv_multipart()[-1]
    batch = msgspec.msgpack.Decoder(type=KVEventBatch).decode(payload)
    stored = [event for event in batch.events if isinstance(event, BlockStored)]
    assert stored
    assert stored[0].token_ids == prompt[: len(stored[0].token_ids)]

"""Prefill in one engine and decode in another, KV going from memory to memory by NIXL."""

from __future__ import annotations

import importlib.util
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.asking import expected, passage
from tests.disaggregation.pairs import CHUNK, MODEL, Pair, complete, gain, pair
from tests.prompts import clear_prompts
from tests.server.waiting import running, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serve,
    pytest.mark.skipif(
        importlib.util.find_spec("nixl") is None, reason="NIXL is not installed: pip install nixl"
    ),
]

NEW = 16
COMPUTED, TAKEN_OVER = "vllm_npu:tokens_total", "vllm:external_prefix_cache_hits_total"
TRANSFERS, FAILED = "vllm:nixl_xfer_time_seconds_count", "vllm:nixl_num_failed_transfers_total"
# vLLM's own connector where blocks lie as it expects them, ours where the driver has its own way;
# and both things that an engine may do with a prompt whose KV was lost.
PAIRS = {
    "gather": ("NixlConnector", "recompute"),
    "openvino": ("NPUNixlConnector", "fail"),
}


@pytest.fixture(params=PAIRS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def policy(kind: str) -> str:
    """What the decode engine does with a request whose KV was lost."""
    return PAIRS[kind][1]


@pytest.fixture(scope="module")
def path(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def engines(
    kind: str, policy: str, path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    def transfer(role: str) -> dict[str, Any]:
        connector = PAIRS[kind][0]
        return {"kv_connector": connector, "kv_role": role, "kv_load_failure_policy": policy}

    with pair(path, kind, transfer, tmp_path_factory.mktemp(f"pair-{kind}")) as engines:
        yield engines


@pytest.fixture(scope="module")
def prompts(path: Path) -> list[list[int]]:
    """From 1 token to several chunks of a prefill."""
    prompts = clear_prompts(path, count=8, max_new_tokens=NEW, longest=600)
    assert sum(len(prompt) > CHUNK for prompt in prompts) >= 2
    return prompts


def test_tokens_equal_a_single_engines(engines: Pair, path: Path, prompts: list[list[int]]) -> None:
    wanted = expected(path, prompts, NEW)
    before = engines.decode.metrics()
    assert [complete(engines.proxy, prompt, NEW) for prompt in prompts] == wanted
    wait_for(lambda: running(engines.decode) == 0)
    # For each request the last token of its prompt, and what it generates but the last.
    assert gain(engines.decode, before, COMPUTED) == NEW * len(prompts)
    assert gain(engines.decode, before, TRANSFERS) == len(prompts)
    # The prefill engine by itself:
    assert [complete(engines.prefill, prompt, NEW) for prompt in prompts] == wanted


def test_several_requests_at_once(engines: Pair, path: Path) -> None:
    prompts = clear_prompts(path, count=16, max_new_tokens=NEW, longest=300, seed=1)
    before = engines.decode.metrics()
    with ThreadPoolExecutor(len(prompts)) as pool:
        done = list(pool.map(lambda prompt: complete(engines.proxy, prompt, NEW), prompts))
    assert done == expected(path, prompts, NEW)
    wait_for(lambda: running(engines.decode) == 0)
    assert gain(engines.decode, before, COMPUTED) <= NEW * len(prompts) + len(prompts)


def test_a_prefix_that_the_decode_engine_has_is_not_taken_over_again(
    engines: Pair, path: Path
) -> None:
    (prompt,) = clear_prompts(path, count=2, max_new_tokens=NEW, longest=200, seed=2)[1:]
    wanted = expected(path, [prompt], NEW)[0]
    before = engines.decode.metrics()
    assert complete(engines.proxy, prompt, NEW) == wanted
    assert gain(engines.decode, before, TAKEN_OVER) == len(prompt)
    assert complete(engines.proxy, prompt, NEW) == wanted
    assert gain(engines.decode, before, TAKEN_OVER) < len(prompt) + 40


def test_a_stream_through_the_proxy(engines: Pair, path: Path) -> None:
    prompt = passage(path, 50)
    stream = engines.proxy.openai.completions.create(
        model=MODEL,
        prompt=prompt,
        max_tokens=NEW,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )
    # How many tokens a chunk holds depends on how fast they are read.
    choices = [chunk.choices[0] for chunk in stream if chunk.choices]
    tokens = [token for choice in choices for token in choice.model_extra["token_ids"] or []]
    assert tokens == expected(path, [prompt], NEW)[0]
    assert [choice.finish_reason for choice in choices] == [None] * (len(choices) - 1) + ["length"]


def test_what_cannot_be_split_is_served_too(engines: Pair, path: Path) -> None:
    prompts = [passage(path, 20), passage(path, 30)]
    completion = engines.proxy.openai.completions.create(
        model=MODEL, prompt=prompts, max_tokens=NEW, temperature=0, extra_body={"ignore_eos": True}
    )
    assert len(completion.choices) == 2


def test_errors_reach_the_client(engines: Pair, path: Path) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        engines.proxy.openai.completions.create(model="other", prompt="Shall I", max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="context length"):
        complete(engines.proxy, passage(path, 1100), 1)


class TestPrefillEngineKilled:
    """The last tests, as there is no prefill engine after them."""

    def test_in_mid_transfer(self, engines: Pair, path: Path, policy: str) -> None:
        """It answers, is stopped so that the transfer can't end, and killed while it is under
        way."""
        short, prompt = clear_prompts(path, count=2, max_new_tokens=NEW, longest=500, seed=3)
        complete(engines.proxy, short, 1)  # The two have met.
        transfer = prefilled(engines, prompt)
        family = [engines.prefill.process, *engines.prefill.process.children(recursive=True)]
        signal_all(family, signal.SIGSTOP)
        before = engines.decode.metrics()
        timer = threading.Timer(2.0, signal_all, (family, signal.SIGKILL))
        timer.start()
        try:
            if policy == "recompute":
                tokens = complete(engines.decode, prompt, NEW, kv_transfer_params=transfer)
                assert tokens == expected(path, [prompt], NEW)[0]
            else:
                with pytest.raises(openai.InternalServerError):
                    complete(engines.decode, prompt, NEW, kv_transfer_params=transfer)
        finally:
            timer.join()
        assert gain(engines.decode, before, FAILED) >= 1
        log = engines.decode.log.read_text()
        assert "NIXL_ERR_REMOTE_DISCONNECT" in log
        assert "handshake_failed" not in log

    def test_the_decode_engine_serves_on(self, engines: Pair, path: Path) -> None:
        """The proxy finds nobody to prefill, and the decode engine computes prompts itself."""
        prompts = clear_prompts(path, count=4, max_new_tokens=NEW, longest=300, seed=4)
        done = [complete(engines.proxy, prompt, NEW) for prompt in prompts]
        assert done == expected(path, prompts, NEW)


def prefilled(engines: Pair, prompt: list[int]) -> Any:
    """Where a prompt's KV is, as the proxy would learn it."""
    with engines.prefill.http as client:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 1}
        asked = body | {"kv_transfer_params": {"do_remote_decode": True}}
        return client.post("/v1/completions", json=asked).json()["kv_transfer_params"]


def signal_all(family: list[psutil.Process], how: signal.Signals) -> None:
    for member in family:
        member.send_signal(how)

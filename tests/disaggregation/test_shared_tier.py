"""Prefill in one engine and decode in another, KV going through a directory that both use."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.asking import expected
from tests.disaggregation.pairs import Pair, complete, gain, pair
from tests.prompts import clear_prompts
from tests.server.waiting import running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.serve]

NEW = 16
BLOCK = 16
COMPUTED = "vllm_npu:tokens_total"


@pytest.fixture(scope="module")
def path(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def engines(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("tier")

    def transfer(_role: str) -> dict[str, Any]:
        tier = {"type": "fs", "root_dir": str(directory / "kv"), "max_bytes": "256MiB"}
        return {
            "kv_connector": "NPUConnector",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {
                "cpu_bytes_to_use": "32MiB",
                "load": "always",
                "arrival_timeout": 60.0,
                "secondary_tiers": [tier],
            },
        }

    with pair(path, "gather", transfer, directory, "--block-size", BLOCK) as engines:
        yield engines


def test_tokens_equal_a_single_engines(engines: Pair, path: Path) -> None:
    prompts = clear_prompts(path, count=8, max_new_tokens=NEW, longest=600)
    wanted = expected(path, prompts, NEW)
    before = engines.decode.metrics()
    assert [complete(engines.proxy, prompt, NEW) for prompt in prompts] == wanted
    wait_for(lambda: running(engines.decode) == 0)
    # What is behind the last whole block isn't stored; the last token is always computed.
    behind = sum(max(len(prompt) % BLOCK, 1) for prompt in prompts)
    assert gain(engines.decode, before, COMPUTED) == behind + (NEW - 1) * len(prompts)


def test_several_requests_at_once(engines: Pair, path: Path) -> None:
    prompts = clear_prompts(path, count=12, max_new_tokens=NEW, longest=300, seed=1)
    with ThreadPoolExecutor(len(prompts)) as pool:
        done = list(pool.map(lambda prompt: complete(engines.proxy, prompt, NEW), prompts))
    assert done == expected(path, prompts, NEW)


def test_what_the_decode_engine_generates_is_shared_too(engines: Pair, path: Path) -> None:
    """The next turn of a talk: the prefill engine finds the answer's KV in the tier."""
    (prompt,) = clear_prompts(path, count=2, max_new_tokens=4 * BLOCK, longest=200, seed=2)[1:]
    answer = complete(engines.proxy, prompt, 3 * BLOCK)
    longer = [*prompt, *answer, *prompt[:5]]
    wait_for(lambda: running(engines.decode) == 0)
    before = engines.prefill.metrics()
    complete(engines.prefill, longer, 1, kv_transfer_params={"do_remote_prefill": True})
    known = (len(prompt) + len(answer) - 1) // BLOCK * BLOCK
    assert gain(engines.prefill, before, COMPUTED) <= len(longer) - known


def test_the_prefill_engine_killed(engines: Pair, path: Path) -> None:
    """The last test, as there is none after it: what it had stored is there, the rest computed."""
    prompts = clear_prompts(path, count=4, max_new_tokens=NEW, longest=300, seed=3)
    process = engines.prefill.process
    for member in [process, *process.children(recursive=True)]:
        member.send_signal(signal.SIGKILL)
    done = [complete(engines.proxy, prompt, NEW) for prompt in prompts]
    assert done == expected(path, prompts, NEW)

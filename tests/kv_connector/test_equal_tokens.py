"""KV that comes back from outside the device gives the very tokens that computing it gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.asking import ask, expected, greedy, passage, tokens_of
from tests.kv_connector.engines import BLOCK, again, connected, disk, forget, metric
from tests.prompts import clear_prompts, mixed_prompts

if TYPE_CHECKING:
    from tests.conftest import Engines

NEW = 12


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blocks")


@pytest.fixture
def llm(engines: Engines, contract: str, directory: Path) -> Any:
    return connected(engines, "llama", contract, (disk(directory),))


def test_from_host_memory(llm: Any, tiny_model: Callable[[str], Path]) -> None:
    path = tiny_model("llama")
    prompts = mixed_prompts(path, count=8, longest=300)
    wanted = expected(path, prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    assert again(llm, prompts, NEW) == wanted


def test_from_disk(llm: Any, tiny_model: Callable[[str], Path]) -> None:
    path = tiny_model("llama")
    prompts = mixed_prompts(path, count=8, longest=300, seed=1)
    wanted = expected(path, prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    before = metric(llm, "vllm:kv_offload_tiering_read_bytes", tier="1:npu_fs")
    assert again(llm, prompts, NEW, host=True) == wanted
    assert metric(llm, "vllm:kv_offload_tiering_read_bytes", tier="1:npu_fs") > before


def test_from_a_shared_store(
    engines: Engines, contract: str, redis_server: Any, tiny_model: Callable[[str], Path]
) -> None:
    """What one engine computed, another one reads."""
    path = tiny_model("llama")
    prompts = mixed_prompts(path, count=6, longest=300, seed=8)
    wanted = expected(path, prompts, NEW)
    tier = ({"type": "valkey", "url": redis_server.url},)
    writer, reader = (connected(engines, "llama", contract, tier, life=life) for life in (0, 1))
    assert greedy(writer, prompts, NEW) == wanted
    forget(writer)
    assert again(reader, prompts, NEW) == wanted


def test_after_a_restart(
    llm: Any,
    engines: Engines,
    contract: str,
    directory: Path,
    tiny_model: Callable[[str], Path],
) -> None:
    path = tiny_model("llama")
    prompts = mixed_prompts(path, count=6, longest=300, seed=2)
    wanted = expected(path, prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    again(llm, prompts, NEW)
    restarted = connected(engines, "llama", contract, (disk(directory),), life=1)
    assert again(restarted, prompts, NEW) == wanted


def test_the_part_of_a_prefix_that_is_there(llm: Any, tiny_model: Callable[[str], Path]) -> None:
    path = tiny_model("llama")
    long = passage(path, 400, start=900)
    first = expected(path, [long], NEW)
    assert greedy(llm, [long], NEW) == first
    cuts = (7, 32, 130, 399)
    branches = [long[:cut] + passage(path, 90, start=2000 + cut) for cut in cuts]
    wanted = expected(path, branches, NEW)
    forget(llm)
    outputs = [ask(llm, [branch], NEW)[0] for branch in branches]
    assert tokens_of(outputs) == wanted
    found = [output.num_cached_tokens for output in outputs]
    assert found == [cut // BLOCK * BLOCK for cut in cuts]


def test_sixty_four_requests_that_share_prefixes(
    llm: Any, tiny_model: Callable[[str], Path]
) -> None:
    path = tiny_model("llama")
    beginnings = [passage(path, 48 * (index + 1), start=3000 + 500 * index) for index in range(4)]
    endings = mixed_prompts(path, count=16, longest=60, seed=3)
    prompts = [beginning + ending for ending in endings for beginning in beginnings]
    assert len(prompts) == 64
    wanted = expected(path, prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    assert again(llm, prompts, NEW) == wanted


def test_after_preemption(
    engines: Engines, contract: str, tiny_model: Callable[[str], Path]
) -> None:
    """Too few blocks for all that run: what is taken from one is loaded when it goes on."""
    path = tiny_model("llama")
    small = connected(engines, "llama", contract, num_gpu_blocks_override=26, max_num_seqs=8)
    prompts = [passage(path, 70 + index, start=5000 + 300 * index) for index in range(8)]
    wanted = expected(path, prompts, 64)
    before = metric(small, "vllm:num_preemptions")
    assert greedy(small, prompts, 64) == wanted
    assert metric(small, "vllm:num_preemptions") > before
    assert again(small, prompts, 64) == wanted


def test_sliding_window_layers(
    engines: Engines, contract: str, tiny_model: Callable[[str], Path]
) -> None:
    path = tiny_model("exaone4")
    llm = connected(engines, "exaone4", contract)
    prompts = mixed_prompts(path, count=5, longest=300, seed=5)
    wanted = expected(path, prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    assert again(llm, prompts, NEW) == wanted


def test_chunks_of_several_blocks(
    engines: Engines, contract: str, tiny_model: Callable[[str], Path]
) -> None:
    """What is stored outside is larger than a block of the device."""
    path = tiny_model("llama")
    llm = connected(engines, "llama", contract, extra={"block_size": 64})
    prompts = mixed_prompts(path, count=6, longest=400, seed=6)
    wanted = expected(path, prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    forget(llm)
    outputs = ask(llm, prompts, NEW)
    assert tokens_of(outputs) == wanted
    found = [output.num_cached_tokens for output in outputs]
    assert found == [(len(prompt) - 1) // 64 * 64 for prompt in prompts]


def test_speculation(engines: Engines, contract: str, tiny_model: Callable[[str], Path]) -> None:
    """A draft model's KV goes out and comes back with the target's."""
    path = tiny_model("llama")
    speculation = {
        "method": "draft_model",
        "model": str(tiny_model("llama-draft")),
        "num_speculative_tokens": 3,
        "max_model_len": 768,
    }
    llm = connected(engines, "llama", contract, speculative_config=speculation)
    prompts = clear_prompts(path, 6, 24, longest=300)
    wanted = expected(path, prompts, 24)
    assert greedy(llm, prompts, 24) == wanted
    accepted = metric(llm, "vllm:spec_decode_num_accepted_tokens")
    assert again(llm, prompts, 24) == wanted
    assert metric(llm, "vllm:spec_decode_num_accepted_tokens") > accepted


@pytest.mark.parametrize("kind", ["bfloat16", "uint8"])
def test_precisions_of_the_cache(
    engines: Engines, kind: str, tiny_model: Callable[[str], Path]
) -> None:
    """On OpenVINO, whose blocks are bytes in a layout of its own."""
    path = tiny_model("llama")
    options: dict[str, Any] = (
        {"dtype": "bfloat16"} if kind == "bfloat16" else {"npu": {"kv_cache_dtype": "uint8"}}
    )
    llm = connected(engines, "llama", "openvino", **options)
    plain = engines.get("llama", "openvino", **{"max_model_len": 768, "block_size": 32, **options})
    prompts = mixed_prompts(path, count=6, longest=200, seed=7)
    wanted = greedy(plain, prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    assert again(llm, prompts, NEW) == wanted

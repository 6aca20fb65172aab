"""Whether KV outside the device is loaded: as it was told, or as it was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.asking import ask, expected, greedy, tokens_of
from tests.inside import ask_inside
from tests.kv_connector.engines import connected, disk, forget, metric
from tests.prompts import mixed_prompts

if TYPE_CHECKING:
    from tests.conftest import Engines

NEW = 8
RECOMPUTED = "vllm:kv_offload_npu_recomputed_requests"
SKIPPED = "vllm:kv_offload_npu_tier_skipped_requests"


def costs_of(core: Any) -> Any:
    """What the connector of an engine's core has measured."""
    return core.scheduler.connector._policy.costs


def least(core: Any) -> float:
    costs = costs_of(core)
    return float(min(costs.compute.value, costs.host.value, costs.tier("1:npu_fs").value))


def slow_disk(core: Any) -> None:
    costs = costs_of(core)
    costs.tier("1:npu_fs").value = costs.compute.value * 100


def slow_memory(core: Any) -> None:
    costs = costs_of(core)
    costs.host.value = costs.compute.value * 100


def test_never(engines: Engines, tiny_model: Callable[[str], Path]) -> None:
    path = tiny_model("llama")
    llm = connected(engines, "llama", "paged", extra={"load": "never"})
    prompts = mixed_prompts(path, count=4, longest=200, seed=20)
    wanted = expected(path, prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    forget(llm)
    outputs = ask(llm, prompts, NEW)
    assert tokens_of(outputs) == wanted
    assert not any(output.num_cached_tokens for output in outputs)


def test_what_is_measured_decides(
    engines: Engines, blocks: Path, tiny_model: Callable[[str], Path]
) -> None:
    path = tiny_model("llama")
    llm = connected(engines, "llama", "paged", (disk(blocks),), extra={"load": "auto"})
    prompts = mixed_prompts(path, count=4, longest=300, seed=21)
    wanted = expected(path, prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    for _ in range(2):
        forget(llm, host=True)
        assert greedy(llm, prompts, NEW) == wanted
    assert ask_inside(llm, least) > 0

    # A disk that has become slow: the prompts' KV is there and is computed all the same.
    ask_inside(llm, slow_disk)
    forget(llm, host=True)
    outputs = ask(llm, prompts, NEW)
    assert tokens_of(outputs) == wanted
    assert not any(output.num_cached_tokens for output in outputs)
    assert metric(llm, SKIPPED, tier="1:npu_fs") == len(prompts)

    # Memory that has become slow.
    ask_inside(llm, slow_memory)
    forget(llm)
    outputs = ask(llm, prompts, NEW)
    assert tokens_of(outputs) == wanted
    assert not any(output.num_cached_tokens for output in outputs)
    assert metric(llm, RECOMPUTED) == len(prompts)

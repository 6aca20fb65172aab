"""Caches whose blocks lie in parts, as the connectors of vLLM see them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    SlidingWindowSpec,
    UniformTypeKVCacheSpecs,
)

from vllm_npu_kv_connector.parts import split_caches, split_config
from vllm_npu_runtime.errors import ConfigurationError

BLOCKS, TOKENS = 5, 4
FULL: dict[str, Any] = {
    "num_kv_heads": 2,
    "head_size": 8,
    "block_size": TOKENS,
    "dtype": torch.uint8,
    "num_head_slots": 1,
    "state_content_bytes": 20,
}


def config_of(spec: Any, *layers: str) -> KVCacheConfig:
    groups = [KVCacheGroupSpec(list(layers), spec)]
    return KVCacheConfig(num_blocks=BLOCKS, kv_cache_tensors=[], kv_cache_groups=groups)


@pytest.fixture
def parts_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the sizes of parts that the platform tells of each block."""

    def tell(*sizes: int) -> None:
        ask = staticmethod(lambda config, spec: sizes)
        monkeypatch.setattr(type(current_platform), "kv_block_parts", ask, raising=False)

    return tell


def test_one_part_is_left_as_it_is(parts_of: Any) -> None:
    parts_of(80)
    config = config_of(FullAttentionSpec(**FULL), "a", "b")
    parts = split_config(config, None)  # type: ignore[arg-type]
    assert parts.config.kv_cache_groups == config.kv_cache_groups
    caches = {name: torch.zeros(BLOCKS, 1, TOKENS, 20, dtype=torch.uint8) for name in "ab"}
    assert split_caches(caches, parts) == caches


def test_a_platform_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_npu_kv_connector.parts.current_platform", SimpleNamespace())
    config = config_of(FullAttentionSpec(**FULL), "a")
    parts = split_config(config, None)  # type: ignore[arg-type]
    assert parts.sizes == {"a": (80,)}


@pytest.mark.parametrize(
    "spec",
    [FullAttentionSpec(**FULL), SlidingWindowSpec(**FULL, sliding_window=8)],
    ids=["full", "window"],
)
def test_each_part_is_a_cache_of_the_same_memory(parts_of: Any, spec: Any) -> None:
    parts_of(32, 48)
    parts = split_config(config_of(spec, "a"), None)  # type: ignore[arg-type]
    memory = torch.arange(BLOCKS * 80).to(torch.uint8).view(BLOCKS, 1, TOKENS, 20)
    split = split_caches({"a": memory}, parts)
    assert {name: list(cache.shape) for name, cache in split.items()} == {
        "a/0": [BLOCKS, 1, 1, 32],
        "a/1": [BLOCKS, 1, 1, 48],
    }
    flat = memory.view(-1)
    for block in range(BLOCKS):
        keys, values = block * 32, BLOCKS * 32 + block * 48
        assert torch.equal(split["a/0"][block].view(-1), flat[keys : keys + 32])
        assert torch.equal(split["a/1"][block].view(-1), flat[values : values + 48])
    split["a/1"][3] = 7
    assert (flat[BLOCKS * 32 + 3 * 48 :][:48] == 7).all()


def test_the_configuration_has_a_layer_for_each_part(parts_of: Any) -> None:
    parts_of(32, 48)
    parts = split_config(config_of(FullAttentionSpec(**FULL), "a", "b"), None)  # type: ignore[arg-type]
    (group,) = parts.config.kv_cache_groups
    assert group.layer_names == ["a/0", "a/1", "b/0", "b/1"]
    assert isinstance(group.kv_cache_spec, UniformTypeKVCacheSpecs)
    sizes = {n: spec.page_size_bytes for n, spec in group.kv_cache_spec.kv_cache_specs.items()}
    assert sizes == {"a/0": 32, "a/1": 48, "b/0": 32, "b/1": 48}
    assert group.kv_cache_spec.block_size == TOKENS
    assert parts.config.num_blocks == BLOCKS


def test_a_block_larger_than_its_parts(parts_of: Any) -> None:
    """What is left over lies behind the last part."""
    parts_of(28, 44)
    parts = split_config(config_of(FullAttentionSpec(**FULL), "a"), None)  # type: ignore[arg-type]
    memory = torch.zeros(BLOCKS, 1, TOKENS, 20, dtype=torch.uint8)
    split = split_caches({"a": memory}, parts)
    assert split["a/1"].data_ptr() - memory.data_ptr() == BLOCKS * 28


def test_a_part_that_tokens_do_not_share_evenly(parts_of: Any) -> None:
    parts_of(30, 50)
    with pytest.raises(ConfigurationError, match="'a' keeps 30 bytes of a part of its KV for 4"):
        split_config(config_of(FullAttentionSpec(**FULL), "a"), None)  # type: ignore[arg-type]

"""Engines whose KV differs in anything don't take each other's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import (
    compute_nixl_compatibility_hash,
)

from vllm_npu_kv_connector.disaggregation import nixl

BLOCK = 16


@pytest.fixture
def hash_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What an engine with KV of some identity says of itself when it meets another."""

    def start(self: Any, config: Any, engine_id: str, kv_cache: Any) -> None:
        self.attn_backends = [SimpleNamespace(get_name=lambda: "CUSTOM")]
        self.block_size = BLOCK

    monkeypatch.setattr(nixl.NixlPullConnectorWorker, "__init__", start)
    monkeypatch.setattr(nixl, "split_config", lambda kv_cache, config: SimpleNamespace(config=None))

    def make(identity: str, dtype: str = "float32") -> str:
        asked: list[Any] = []
        monkeypatch.setattr(nixl, "identity_of", lambda *given: asked.append(given) or identity)
        config: Any = SimpleNamespace(
            model_config=SimpleNamespace(
                model="demo",
                dtype=dtype,
                get_total_num_kv_heads=lambda: 2,
                get_head_size=lambda: 16,
                get_total_num_hidden_layers=lambda: 2,
            ),
            cache_config=SimpleNamespace(cache_dtype="auto"),
            scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
            speculative_config=None,
        )
        kv_cache: Any = object()
        worker = nixl.NPUNixlWorker(config, "engine", kv_cache)
        assert asked == [(config, kv_cache, BLOCK)]
        made: str = compute_nixl_compatibility_hash(config, worker.backend_name)
        return made

    return make


def test_the_same_kv(hash_of: Any) -> None:
    assert hash_of("one") == hash_of("one")


def test_kv_of_another_driver_or_layout(hash_of: Any) -> None:
    assert hash_of("one") != hash_of("other")


def test_what_vllm_compares_counts_too(hash_of: Any) -> None:
    assert hash_of("one") != hash_of("one", dtype="bfloat16")

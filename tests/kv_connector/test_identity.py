"""Which engines share KV: those whose blocks are the same, and no others."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from tests.inside import ask_inside
from tests.kv_connector.engines import connected

if TYPE_CHECKING:
    from tests.conftest import Engines

CHUNK = 32


@pytest.fixture
def llm(engines: Engines) -> Any:
    return connected(engines, "llama", "paged")


def kv_cache_of(core: Any) -> bytes:
    return pickle.dumps(core.scheduler.kv_cache_config)


def maps(_core: Any) -> str:
    """What is mapped into the engine's process."""
    return Path("/proc/self/maps").read_text()


@pytest.fixture
def changed(llm: Any) -> Callable[..., str]:
    """The identity of an engine like this one, but for what a function changes."""
    from vllm_npu_kv_connector.identity import identity_of

    kv_cache = pickle.loads(ask_inside(llm, kv_cache_of))

    def identity(
        change: Callable[[Any], object] = lambda config: None,
        device: str = "reference",
        tokens: int = CHUNK,
    ) -> str:
        config = copy(llm.llm_engine.vllm_config)
        for name in ("model_config", "cache_config", "parallel_config", "additional_config"):
            setattr(config, name, deepcopy(getattr(config, name)))
        change(config)
        with patch.dict(os.environ, VLLM_NPU_DEVICE=device):
            return identity_of(config, kv_cache, tokens)

    return identity


def setting(name: str, value: Any) -> Callable[[Any], object]:
    return lambda config: config.additional_config["npu"].update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        setting("token_bucket", {"strategy": "linear", "step": 64}),
        setting("prefill_chunk_size", 32),
        setting("warm_up", False),
        lambda config: setattr(config.cache_config, "num_gpu_blocks", 5),
        lambda config: setattr(config.model_config, "served_model_name", "other"),
        lambda config: setattr(config.model_config, "max_model_len", 99),
    ],
    ids=["buckets", "chunks", "warm-up", "cache size", "served name", "length"],
)
def test_what_changes_no_block(
    changed: Callable[..., str], change: Callable[[Any], object]
) -> None:
    assert changed(change) == changed()


@pytest.mark.parametrize(
    "change",
    [
        lambda config: setattr(config.model_config, "dtype", "bfloat16"),
        lambda config: setattr(config.model_config, "quantization", "gptq"),
        lambda config: setattr(config.model_config.hf_config, "rope_theta", 5e5),
        lambda config: setattr(config.cache_config, "cache_dtype", "bfloat16"),
        lambda config: setattr(config.cache_config, "prefix_caching_hash_algo", "xxhash"),
        lambda config: setattr(config.parallel_config, "tensor_parallel_size", 2),
        setting("kv_contract", "gather"),
        lambda config: config.additional_config.update(npu_quantization={"lm_head": True}),
    ],
    ids=["dtype", "quantization", "rope", "KV dtype", "hash", "parallel", "setting", "plugin"],
)
def test_what_changes_every_block(
    changed: Callable[..., str], change: Callable[[Any], object]
) -> None:
    assert changed(change) != changed()


def test_another_device_or_chunk_size(changed: Callable[..., str]) -> None:
    assert len({changed(), changed(device="openvino:CPU"), changed(tokens=64)}) == 3


def test_a_copy_of_the_checkpoint_elsewhere(
    changed: Callable[..., str], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    import shutil

    there = str(shutil.copytree(tiny_model("llama"), tmp_path / "copy"))

    def move(config: Any) -> None:
        config.model_config.model = config.model_config.hf_config._name_or_path = there

    assert changed(move) == changed()


def test_the_host_tiers_memory_has_no_name(llm: Any) -> None:
    """So it goes with the engine's process, however that ends."""
    identifier = llm.llm_engine.vllm_config.kv_transfer_config.engine_id
    assert not list(Path("/dev/shm").glob(f"*{identifier}*"))
    assert f"vllm_offload_{identifier}.mmap (deleted)" in ask_inside(llm, maps)

"""The compile cache's key: changes with whatever a graph depends on, and with nothing else."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import vllm.envs
from torch import nn
from transformers import LlamaConfig
from vllm.config import ModelConfig, VllmConfig

from vllm_npu_platform.graph.cache_key import cache_key, compile_cache
from vllm_npu_platform.host.environment import register_environment_variables
from vllm_npu_platform.target import Target
from vllm_npu_runtime import device
from vllm_npu_runtime.settings import BucketSettings, Settings

MakeTarget = Callable[..., Target]
OURS = "VLLM_NPU_STRICT"
SOURCE = '''
from torch import nn

class Model(nn.Linear):
    """A model plugin's."""

    def forward(self, hidden):
        return super().forward(hidden) * 2
'''


@pytest.fixture(scope="module")
def supported(tmp_path_factory: pytest.TempPathFactory) -> VllmConfig:
    directory: Path = tmp_path_factory.mktemp("llama")
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(directory)
    model = ModelConfig(str(directory), skip_tokenizer_init=True, dtype="float32")
    config = VllmConfig(model_config=model)
    config.cache_config.num_gpu_blocks = 64
    return config


@pytest.fixture
def config(supported: VllmConfig) -> VllmConfig:
    """To be altered."""
    return copy.deepcopy(supported)


@pytest.fixture
def write_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., nn.Module]:
    """A model of a module file with a source, imported anew."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str = SOURCE) -> nn.Module:
        path = tmp_path / "plugged_in.py"
        path.write_text(source)
        specification = importlib.util.spec_from_file_location(path.stem, path)
        assert specification is not None and specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, path.stem, module)
        specification.loader.exec_module(module)
        model: nn.Module = module.Model(4, 4)
        return model

    return write


WriteModel = Callable[..., nn.Module]


def key(config: VllmConfig, target: Target, model: nn.Module | None = None) -> str:
    """The digest, by which a cache finds its graphs."""
    return cache_key(config, target, nn.Linear(2, 2) if model is None else model).digest


def change(config: VllmConfig, path: str, value: object) -> None:
    *parents, name = path.split(".")
    owner = attrgetter(".".join(parents))(config) if parents else config
    assert hasattr(owner, name)
    setattr(owner, name, value)


def test_equal_configurations_have_equal_keys(
    supported: VllmConfig, config: VllmConfig, make_target: MakeTarget
) -> None:
    assert key(supported, make_target()) == key(config, make_target())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model_config.model", "acme/other"),
        ("model_config.dtype", torch.bfloat16),
        ("model_config.max_model_len", 64),
        ("scheduler_config.max_num_batched_tokens", 96),
        ("scheduler_config.max_num_seqs", 3),
        ("cache_config.cache_dtype", "bfloat16"),
        ("cache_config.block_size", 32),
        ("cache_config.num_gpu_blocks", 65),
        ("parallel_config.rank", 1),
    ],
)
def test_it_changes_with_vllms_options(
    path: str, value: object, config: VllmConfig, make_target: MakeTarget
) -> None:
    before = key(config, make_target())
    change(config, path, value)
    assert key(config, make_target()) != before


@pytest.mark.parametrize(
    "settings",
    [
        {"kv_contract": "gather"},
        {"kv_cache_dtype": "float16"},
        {"dynamic_tokens": True},
        {"token_bucket": BucketSettings(step=4)},
        {"driver_options": {"threads": 2}},
    ],
    ids=str,
)
def test_it_changes_with_settings_that_graphs_depend_on(
    settings: dict[str, Any], config: VllmConfig, make_target: MakeTarget
) -> None:
    assert key(config, make_target(**settings)) != key(config, make_target())


@pytest.mark.parametrize(
    "settings",
    [{"strict": True}, {"warm_up": False}, {"run_timeout": 5}, {"device": "paper"}],
    ids=str,
)
def test_it_does_not_change_with_other_settings(
    settings: dict[str, Any], config: VllmConfig, make_target: MakeTarget
) -> None:
    assert key(config, make_target(**settings)) == key(config, make_target())


def test_settings_count_the_same_wherever_they_are_given(
    config: VllmConfig, make_target: MakeTarget
) -> None:
    before = key(config, make_target())
    config.additional_config = {"npu": {"strict": True}}
    assert key(config, make_target(strict=True)) == before


@pytest.mark.parametrize(("variable", "changes"), [("VLLM_MLA_DISABLE", True), (OURS, False)])
def test_it_changes_with_vllms_variables_but_not_with_ours(
    variable: str,
    changes: bool,
    config: VllmConfig,
    make_target: MakeTarget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ours are settings, which are in it where they matter."""
    monkeypatch.setattr(vllm.envs, "environment_variables", {**vllm.envs.environment_variables})
    register_environment_variables()
    monkeypatch.delenv(variable, raising=False)
    before = key(config, make_target())
    monkeypatch.setenv(variable, "1")
    assert (key(config, make_target()) != before) is changes


def test_it_changes_with_the_shapes_that_suit_the_device(
    config: VllmConfig, make_target: MakeTarget
) -> None:
    limits = [{}, {"dynamic_tokens": True}]
    keys = {key(config, make_target(each)) for each in limits}
    gathered = [{}, {"max_batch_size": 4}, {"max_tokens": 64}]
    keys |= {key(config, make_target(each, kv_contract="gather")) for each in gathered}
    assert len(keys) == len(limits) + len(gathered)


def test_it_changes_with_the_device(config: VllmConfig) -> None:
    names = ("sim:large", "sim:basic", "reference")
    keys = {key(config, Target(Settings(), device.find(name))) for name in names}
    assert len(keys) == len(names)


def test_it_changes_with_the_drivers_version(
    config: VllmConfig, make_target: MakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_target()
    before = key(config, target)
    monkeypatch.setattr(target.device.driver, "fingerprint", lambda device: "newer")
    assert key(config, target) != before


@pytest.mark.parametrize("layout", ["NHC", "opaque"])
def test_the_number_of_blocks_counts_only_in_a_plain_cache(
    layout: str, config: VllmConfig, make_target: MakeTarget
) -> None:
    """It follows from the memory that is free, which differs from start to start."""
    target = make_target({"kv_layout": layout})
    before = key(config, target)
    config.cache_config.num_gpu_blocks = 65
    assert (key(config, target) == before) is (layout == "opaque")


def test_it_changes_with_speculation(config: VllmConfig, make_target: MakeTarget) -> None:
    def speculating(method: str, draft: str | None = None) -> str:
        model = None if draft is None else SimpleNamespace(compute_hash=lambda: draft)
        config.speculative_config = SimpleNamespace(
            method=method, draft_model_config=model, compute_hash=lambda: ""
        )
        return key(config, make_target())

    keys = [
        key(config, make_target()),
        speculating("ngram"),
        speculating("draft_model", "acme/small"),
        speculating("draft_model", "acme/smaller"),
    ]
    assert len(set(keys)) == len(keys)


def test_it_changes_with_a_models_source(
    write_model: WriteModel, config: VllmConfig, make_target: MakeTarget
) -> None:
    before = key(config, make_target(), write_model())
    assert key(config, make_target(), write_model(SOURCE.replace("2", "3"))) != before
    assert key(config, make_target(), write_model()) == before


def test_it_changes_with_the_source_of_a_part_of_a_model(
    write_model: WriteModel, config: VllmConfig, make_target: MakeTarget
) -> None:
    before = key(config, make_target(), nn.Sequential(nn.ReLU(), write_model()))
    edited = write_model(SOURCE.replace("2", "3"))
    assert key(config, make_target(), nn.Sequential(nn.ReLU(), edited)) != before


def test_it_does_not_change_with_the_values_of_weights(
    write_model: WriteModel, config: VllmConfig, make_target: MakeTarget
) -> None:
    model = write_model()
    before = key(config, make_target(), model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    assert key(config, make_target(), model) == before


def test_the_cache_is_in_a_directory_named_by_the_key(
    config: VllmConfig, make_target: MakeTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    monkeypatch.delenv("VLLM_DISABLE_COMPILE_CACHE", raising=False)
    model = nn.Linear(2, 2)
    cache = compile_cache(config, make_target(), model)
    assert cache is not None
    assert cache.directory == tmp_path / "npu" / key(config, make_target(), model)


def test_there_is_no_cache_where_caching_is_switched_off(
    config: VllmConfig, make_target: MakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_DISABLE_COMPILE_CACHE", "1")
    assert compile_cache(config, make_target(), nn.Linear(2, 2)) is None

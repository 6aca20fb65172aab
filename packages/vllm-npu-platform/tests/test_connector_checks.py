"""Connectors: those that move KV between steps are served, all others refused by name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import LlamaConfig
from vllm.config import KVTransferConfig, ModelConfig, VllmConfig

from vllm_npu_platform.checks.connector import connector_problems
from vllm_npu_platform.target import Target
from vllm_npu_runtime.errors import ConfigurationError

MakeTarget = Callable[..., Target]
PLAIN, OPAQUE = {"kv_layout": "NHC"}, {"kv_layout": "opaque"}
MODULE = "connectors_of_the_test"


class Outside:
    """A connector that says that it does without hooks."""

    transfers_outside_graphs = True


class Particular(Outside):
    """One that checks its options itself."""

    @classmethod
    def check(cls, config: VllmConfig) -> None:
        if options := config.kv_transfer_config.kv_connector_extra_config:
            raise ConfigurationError("\n".join(f"{name}: unknown." for name in options))


class Inside:
    """One that says nothing."""


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType(MODULE)
    for each in (Outside, Particular, Inside):
        # vLLM looks for the parameter.
        each.__init__ = lambda self, config, role, kv_cache_config: None  # type: ignore[misc]
        setattr(module, each.__name__, each)
    monkeypatch.setitem(sys.modules, MODULE, module)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> VllmConfig:
    directory: Path = tmp_path_factory.mktemp("llama")
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(directory)
    return VllmConfig(model_config=ModelConfig(str(directory), skip_tokenizer_init=True))


@pytest.fixture
def problems(config: VllmConfig, make_target: MakeTarget) -> Callable[..., list[str]]:
    """What is said of a connector on a device with a plain cache, unless told otherwise."""

    def ask(connector: str, limits: Any = PLAIN, module: str | None = None, **rest: Any) -> Any:
        config.kv_transfer_config = transfer(connector, module, **rest)
        return list(connector_problems(config, make_target(limits, kv_contract="paged")))

    return ask


def transfer(connector: str, module: str | None = None, **rest: Any) -> KVTransferConfig:
    return KVTransferConfig(
        kv_connector=connector, kv_role="kv_both", kv_connector_module_path=module, **rest
    )


@pytest.fixture
def nixl(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if NIXL were installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name if name == "nixl" else find(name)
    )


def test_no_connector_at_all(config: VllmConfig, make_target: MakeTarget) -> None:
    config.kv_transfer_config = None
    assert not list(connector_problems(config, make_target()))


def test_a_connector_that_does_without_hooks(problems: Callable[..., list[str]]) -> None:
    assert problems("Outside", module=MODULE) == []


def test_a_connector_that_says_nothing_is_refused(problems: Callable[..., list[str]]) -> None:
    (problem,) = problems("Inside", module=MODULE)
    assert "'Inside' relies on hooks inside the layers" in problem
    assert "Use NPUConnector" in problem


@pytest.mark.parametrize("name", ["OffloadingConnector", "LMCacheConnectorV1", "ExampleConnector"])
def test_vllms_connectors_are_refused(problems: Callable[..., list[str]], name: str) -> None:
    (problem,) = problems(name)
    assert f"connector '{name}'" in problem


def test_a_connector_that_nobody_has(problems: Callable[..., list[str]]) -> None:
    (problem,) = problems("NPUConector")
    assert "'NPUConector' can't be had: Unsupported connector type" in problem


def test_a_connector_checks_its_own_options(problems: Callable[..., list[str]]) -> None:
    options = {"here": 1, "there": 2}
    assert problems("Particular", module=MODULE) == []
    assert problems("Particular", module=MODULE, kv_connector_extra_config=options) == [
        "--kv-transfer-config: here: unknown.",
        "--kv-transfer-config: there: unknown.",
    ]


@pytest.mark.usefixtures("nixl")
class TestNIXL:
    """vLLM's own connector."""

    def test_on_a_plain_cache(self, problems: Callable[..., list[str]]) -> None:
        assert problems("NixlConnector") == []

    def test_on_a_cache_in_the_drivers_layout(self, problems: Callable[..., list[str]]) -> None:
        (problem,) = problems("NixlConnector", OPAQUE)
        assert "tokens would be wrong. Use NPUNixlConnector" in problem

    def test_a_buffer_that_there_is_not(self, problems: Callable[..., list[str]]) -> None:
        (problem,) = problems("NixlConnector", kv_buffer_device="cuda")
        assert "kv_buffer_device 'cuda': KV is host memory here. Use 'cpu'" in problem


def test_nixl_that_is_not_installed(
    problems: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nixl" else find(name)
    )
    (problem,) = problems("NixlConnector")
    assert "needs NIXL, which isn't installed. Run `pip install nixl`" in problem


@pytest.mark.usefixtures("nixl")
def test_several_connectors_are_checked_one_by_one(problems: Callable[..., list[str]]) -> None:
    def of(*names: str) -> list[str]:
        each = [
            {"kv_connector": name, "kv_role": "kv_both", "kv_connector_module_path": MODULE}
            for name in names
        ]
        return problems("MultiConnector", kv_connector_extra_config={"connectors": each})

    assert of("Outside", "Particular") == []
    (problem,) = of("Outside", "Inside")
    assert "'Inside' relies on hooks" in problem

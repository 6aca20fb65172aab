"""Engines and models that the whole suite's tests share.

An engine takes seconds to start, so tests ask for one by what it must be, and get the one that
is already running if there is one.
"""

from __future__ import annotations

import os
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

# Before vllm is imported anywhere: it reads these once.
os.environ.setdefault("VLLM_NPU_DEVICE", "reference")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
# Until `tests.forking` has started a server for forks, importing vLLM must not start another,
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
# nor importing OpenVINO a thread.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
# Tests hand functions to the worker.
os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")

from tests import covering, forking  # noqa: E402

if TYPE_CHECKING:
    from vllm import LLM

ROOT = Path(__file__).parent.parent
DEMO_MODEL = ROOT / "examples" / "sonnets" / "model"
# Few buckets, as each costs a start a second; uneven ones, so that every batch is padded.
NPU: dict[str, Any] = {
    "strict": True,
    "token_bucket": {"strategy": "exponential", "step": 8, "limit": 3},
    "decode_batch_bucket": {"strategy": "exponential", "step": 4, "limit": 2},
    "prefill_chunk_bucket": {"strategy": "exponential", "step": 8, "limit": 2},
    "prefill_chunk_size": 96,
}
# What an engine is tested with: the reference under either KV contract, and OpenVINO as users get
# it: paged, with one graph for any number of tokens.
CONTRACTS: dict[str, dict[str, Any]] = {
    "paged": {**NPU, "kv_contract": "paged"},
    "gather": {**NPU, "kv_contract": "gather"},
    "openvino": {"strict": True},
}
# Compiled ahead of time, and served from a session.
ARTIFACT = "artifact"
WAYS = (*CONTRACTS, ARTIFACT)
DEVICES = {"openvino": "openvino:CPU", ARTIFACT: "openvino:CPU"}
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 1024,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 256,
    "kv_cache_memory_bytes": 32 << 20,
    "seed": 0,
    # For requests that want JSON: a tiny model would go on with spaces for ever, which is allowed.
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}

# Over these: KV for two long requests at most, and none is kept.
SCARCE: dict[str, Any] = {
    "max_model_len": 512,
    "num_gpu_blocks_override": 40,
    "enable_prefix_caching": False,
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes, give those that share engines or a file to one."""
    from xdist.scheduler import LoadScopeScheduling

    class BySharing(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            contract = re.search(rf"\[({'|'.join(WAYS)})\b", nodeid)
            return contract[1] if contract else nodeid.split("::")[0]

    return BySharing(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--grid`, for what CI has no time for."""
    parser.addoption("--grid", action="store_true", help="all combinations of options")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out combinations of options that the others cover."""
    items[:], left_out = covering.chosen(items, config.option.grid)
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish(session: pytest.Session) -> None:
    """The last moment at which nothing was computed and all is imported."""
    needed = any("forks" in getattr(item, "fixturenames", ()) for item in session.items)
    if not needed or session.config.option.collectonly:
        return
    # What engines print belongs to the test that asks them.
    capture: Any = session.config.pluginmanager.getplugin("capturemanager")
    capture.resume_global_capture()
    forking.start()
    del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]
    capture.suspend_global_capture()


@pytest.fixture(scope="session")
def forks() -> None:
    """For tests that use `tests.forking`: processes can be forked."""


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], Path]:
    """Tiny trained checkpoints by name; made once and kept in a cache directory."""
    from tests import tiny_models

    directory = Path(os.environ.get("NPU_TEST_MODELS", ROOT / ".cache" / "tiny-models"))

    def get(name: str) -> Path:
        return tiny_models.build(name, directory)

    return get


class Engines:
    """Running engines, the latest used: a further one ends the one that was used longest ago."""

    LIMIT = 4

    def __init__(self, model: Callable[[str], Path], artifact: Callable[..., Path]) -> None:
        self._model = model
        self._artifact = artifact
        self._running: OrderedDict[str, LLM] = OrderedDict()

    def get(
        self,
        name: str,
        contract: str = "paged",
        npu: dict[str, Any] | None = None,
        **options: Any,
    ) -> LLM:
        """The engine for a tiny model.

        Args:
            name: of the tiny model, or "demo".
            contract: one of `WAYS`.
            npu: settings of ours over the ones above.
            options: of vLLM over the ones above.
        """
        path = DEMO_MODEL if name == "demo" else self._model(name)
        options = {**ENGINE, **options}
        if contract == ARTIFACT:
            path = self._artifact(name, prefill_chunk_size=256, max_batch_size=8)
            del options["kv_cache_memory_bytes"]
        settings = {"npu": {**CONTRACTS.get(contract, {}), **(npu or {})}}
        device = DEVICES.get(contract, os.environ["VLLM_NPU_DEVICE"])
        return self.of(path, device, additional_config=settings, **options)

    def scheduled(self, name: str, contract: str, asynchronous: bool) -> LLM:
        """The engine for a tiny model that schedules a step before the last one's end, or after."""
        llm = self.get(name, contract, **({} if asynchronous else {"async_scheduling": False}))
        scheduler = llm.llm_engine.vllm_config.scheduler_config
        assert scheduler.async_scheduling is asynchronous
        return llm

    def of(self, path: Path, device: str, **options: Any) -> LLM:
        """The engine for a directory, on a device, with options of vLLM."""
        key = repr((path, device, sorted(options.items(), key=str)))
        if key not in self._running:
            while len(self._running) >= self.LIMIT:
                _stop(self._running.popitem(last=False)[1])
            self._running[key] = _start(path, device, **options)
        self._running.move_to_end(key)
        return self._running[key]

    def stop_all(self) -> None:
        """End all."""
        for llm in self._running.values():
            _stop(llm)


def _start(path: Path, device: str, **options: Any) -> LLM:
    from vllm import LLM

    with patch.dict(os.environ, VLLM_NPU_DEVICE=device):
        return LLM(str(path), **options)


def _stop(llm: LLM) -> None:
    (process,) = llm.llm_engine.engine_core.resources.engine_manager.processes
    llm.llm_engine.engine_core.shutdown()
    # 255: vLLM's threads ask at the same time, and the code can be read only once.
    assert process.exitcode in (0, 255), f"an engine ended with {process.exitcode}"


@pytest.fixture(scope="session")
def artifact(tiny_model: Callable[[str], Path]) -> Callable[..., Path]:
    """Tiny models compiled ahead of time, by name and options of `compiling.build`."""
    from tests import compiling

    def get(name: str, **options: Any) -> Path:
        return compiling.build(DEMO_MODEL if name == "demo" else tiny_model(name), **options)

    return get


@pytest.fixture(scope="session")
def engines(
    tiny_model: Callable[[str], Path], artifact: Callable[..., Path], forks: None
) -> Iterator[Engines]:
    """Engines on demand."""
    running = Engines(tiny_model, artifact)
    yield running
    running.stop_all()


@pytest.fixture(params=CONTRACTS, scope="session")
def contract(request: pytest.FixtureRequest) -> str:
    """Each of `CONTRACTS` in turn. Its scope has pytest run the tests of one after the other's."""
    return str(request.param)


@pytest.fixture(params=WAYS, scope="session")
def way(request: pytest.FixtureRequest) -> str:
    """Each contract in turn, and compiled ahead of time."""
    return str(request.param)

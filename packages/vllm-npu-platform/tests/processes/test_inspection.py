"""Model classes are inspected in a fork, and what was kept is looked at before it is believed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from vllm.model_executor.models import registry

from vllm_npu_platform.processes import inspection

NAME = "Qwen2ForCausalLM"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A model of vLLM's that nobody has looked into, in a process that can be forked."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    monkeypatch.setattr(inspection, "obstacles", list)
    monkeypatch.setattr(inspection, "in_child", lambda _what, function: _asked(function))
    monkeypatch.setattr(registry, "_run_in_subprocess", _new_process)
    return inspection.InspectedInFork("vllm.model_executor.models.qwen2", NAME)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """What our logger says, here and in children."""
    handler = logging.FileHandler(tmp_path / "log")
    logging.getLogger("vllm.npu").addHandler(handler)
    yield tmp_path / "log"
    logging.getLogger("vllm.npu").removeHandler(handler)


def _asked(function: Any) -> Any:
    """Forked as ever, though this process has threads of the test runner's."""
    from vllm_npu_runtime.asking import in_child

    return in_child("Inspecting", function)


def _new_process(function: Any) -> Any:
    raise AssertionError("a new process was started")


def plain(found: Any) -> str:
    """What was found, as it is kept: vLLM's own reading makes lists of tuples."""
    return json.dumps(asdict(found))


def kept(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "modelinfos").iterdir()
    return path


def test_a_fork_finds_what_vllm_finds(model: Any, tmp_path: Path) -> None:
    assert model.inspect_model_cls() == registry._ModelInfo.from_model_cls(model.load_model_cls())
    assert json.loads(kept(tmp_path).read_text())["modelinfo"]["architecture"] == NAME


def test_it_is_kept_for_the_next_start(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = model.inspect_model_cls()
    monkeypatch.setattr(inspection, "_run", _new_process)
    assert plain(model.inspect_model_cls()) == plain(first)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:40], "it is damaged"),
        (lambda text: text.replace('"hash": "', '"hash": "0'), "another version of the model"),
        (lambda text: text.replace('"architecture"', '"other"'), "another vLLM"),
        (lambda text: text.replace(NAME, "LlamaForCausalLM"), "another vLLM, or is damaged"),
    ],
    ids=["cut off", "other model code", "other fields", "another model's"],
)
def test_what_cannot_be_used_is_told_and_found_anew(
    model: Any, tmp_path: Path, log: Path, change: Any, said: str
) -> None:
    first = model.inspect_model_cls()
    path = kept(tmp_path)
    path.write_text(change(path.read_text()))
    for _ in range(2):
        assert plain(model.inspect_model_cls()) == plain(first)
    assert log.read_text().count(said) == 1
    assert json.loads(path.read_text())["modelinfo"]["architecture"] == NAME


def test_a_process_that_cannot_be_forked_leaves_it_to_vllm(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "obstacles", lambda: ["thread 'x'"])
    with pytest.raises(AssertionError, match="a new process"):
        model.inspect_model_cls()


def test_every_model_of_vllms_is_inspected_this_way() -> None:
    before = dict(registry.ModelRegistry.models)
    try:
        inspection.use()
        llama = registry.ModelRegistry.models["LlamaForCausalLM"]
        assert isinstance(llama, inspection.InspectedInFork)
        inspection.use()
        assert registry.ModelRegistry.models["LlamaForCausalLM"] is llama
    finally:
        registry.ModelRegistry.models.clear()
        registry.ModelRegistry.models.update(before)

"""What can't be honoured is refused before a request comes, with the value and the fix."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vllm_npu_runtime.drivers.mobilint import MobilintDriver
from vllm_npu_runtime.errors import ConfigurationError, OutOfMemoryError
from vllm_npu_runtime.mobilint import requirement

from .conftest import Open
from .fake import Host
from .released import HIDDEN, VOCAB, Released, row


def refused(model: Released, host: Host, match: str, **options: Any) -> None:
    """Opening fails for that reason, and leaves nothing on the board."""
    with pytest.raises(ConfigurationError, match=match):
        model.open(**options)
    assert not host.models


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names the command that installs it."""

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(requirement, "version", absent)
    for call in (MobilintDriver().devices, MobilintDriver().version):
        with pytest.raises(ConfigurationError, match=r"pip install 'vllm-npu-runtime\[mobilint\]'"):
            call()


@pytest.mark.parametrize("found", ["1.4.2", "2.0"])
def test_other_version(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older, and of another major version."""
    monkeypatch.setattr(requirement, "version", lambda name: found)
    with pytest.raises(ConfigurationError, match=rf"{found} is installed\. Install"):
        MobilintDriver().devices()


def test_package_that_fails_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for want of a system library."""
    monkeypatch.setattr(requirement, "version", lambda name: "1.5.0")
    monkeypatch.setitem(sys.modules, "qbruntime", None)
    with pytest.raises(ConfigurationError, match="can't be imported"):
        MobilintDriver().devices()


def test_no_board(released: Released, host: Host) -> None:
    """Says what to look for."""
    host.boards = {}
    refused(released, host, "finds no board.*kernel driver")


def test_unknown_board(released: Released, host: Host) -> None:
    """Of the device, or of the user's `dev_no`."""
    refused(released, host, "Unknown device 'mobilint:5'.*mobilint:0, mobilint:1", device="5")
    refused(released, host, "board 5.*DeviceNotFound", placement={"dev_no": (5,)})
    refused(released, host, "one session runs on one board", placement={"dev_no": (0, 1)})


def test_core_mode_without_a_model(released: Released, host: Host) -> None:
    """The model file wasn't compiled for it, or `mxq_path` doesn't name it."""
    refused(released, host, "NotMatch.*core_mode", placement={"core_mode": "global8"})
    refused(
        released, host, "Unknown core mode 'globl4'.*'global4'", placement={"core_mode": "globl4"}
    )
    released.say(mxq_path={"single": "model.mxq", "multi": "other.mxq"})
    refused(released, host, "'global4' isn't in the model's mxq_path.*multi, single",
            placement={"core_mode": "global4"})  # fmt: skip
    released.say(mxq_path="model.mxq", max_batch_size={"single": 1})
    refused(released, host, "'global4' isn't in the model's max_batch_size",
            placement={"core_mode": "global4"})  # fmt: skip
    released.say(core_mode="dual")
    refused(released, host, "Unknown core mode 'dual'")


def test_missing_model_file(released: Released, host: Host) -> None:
    """Names those that are there."""
    released.say(mxq_path="other.mxq")
    refused(released, host, r"'other\.mxq' isn't in .* which has model\.mxq")


def test_broken_model_file(released: Released, host: Host) -> None:
    """The runtime says so."""
    (released.directory / "model.mxq").write_bytes(b"\0" * 64)
    refused(released, host, "FailedToLoadMXQ")


@pytest.mark.parametrize(
    "path", ["../model.mxq", "/etc/passwd", "a/../../model.mxq", "..\\model.mxq", "C:model.mxq"]
)
def test_path_leaving_the_directory(path: str, released: Released, host: Host) -> None:
    """Even if there is such a file."""
    (released.directory.parent / "model.mxq").write_text("{}")
    released.say(mxq_path=path)
    refused(released, host, "leaves the directory")


def test_links_of_the_hub_cache(tmp_path: Path, open_model: Open) -> None:
    """Its snapshots are links to files beside them: these are the user's own, and are followed."""
    model, blobs = Released(tmp_path / "snapshot"), tmp_path / "blobs"
    blobs.mkdir()
    for path in list(model.directory.iterdir()):
        path.rename(blobs / path.name)
        os.symlink(blobs / path.name, path)
    assert not open_model(model).infer([row(0, 0, [1])]).failed


def test_too_many_slots(released: Released, host: Host) -> None:
    """More than config.json says; than the model file holds, where that is silent."""
    refused(released, host, r"2 slots: the model takes 1 to 1 .*max-num-seqs", slots=2)
    released.say(max_batch_size={"single": 2, "global4": 4})
    refused(released, host, "3 slots: the model takes 1 to 2", slots=3)
    released.say(max_batch_size=None)
    refused(released, host, "2 slots: the model takes 1 to 1", slots=2)
    refused(released, host, "0 slots", slots=0)


def test_board_without_room(released: Released, host: Host) -> None:
    """For all copies: those that were loaded are freed."""
    released.say(max_batch_size=8)
    host.room = 3
    with pytest.raises(OutOfMemoryError, match="BadAlloc"):
        released.open(slots=4)
    assert not host.models


@pytest.mark.parametrize(
    ("kind", "placement", "match"),
    [
        ("aries-rb", {"target_cores": ("2:0",)}, "'2:0'.*up to '1:3'"),
        ("aries-rb", {"target_cores": ("0:4",)}, "'0:4'.*up to '1:3'"),
        ("aries-rb", {"target_cores": ("first",)}, "write 'cluster:core'"),
        ("aries-rb", {"target_cores": ("1:0:0",)}, "all on other boards than 0"),
        ("aries-rb", {"target_cores": ("0:1",), "core_mode": "global4"}, "go with core_mode 'sin"),
        ("aries-rb", {"target_clusters": (1,)}, "go with core_mode multi, global4, global8"),
        ("aries-rb", {"target_clusters": (2,), "core_mode": "multi"}, "'2'.*up to '1'"),
        ("aries-rb", {"target_clusters": (1,), "core_mode": "global8"}, "takes both clusters"),
        ("regulus-ra", {"core_mode": "global4"}, "has one core"),
        ("regulus-ra", {"target_cores": ("0:1",)}, "'0:1'.*up to '0:0'"),
        ("taurus", {}, "kind 'taurus' isn't known"),
    ],
)
def test_places(
    kind: str, placement: dict[str, Any], match: str, released: Released, host: Host
) -> None:
    """Cores and clusters that the board doesn't have, or that don't go with the core mode."""
    host.boards = {kind: [0]}
    refused(released, host, match, placement=placement)


def test_length(released: Released, host: Host) -> None:
    """Above the compiled one."""
    refused(released, host, "compiled for 1 to 64.*max-model-len", max_length=65)
    with_less = released.open(max_length=10)
    assert with_less.capabilities.max_length == 10
    with_less.close()


def test_kv_cache_dtype(released: Released, host: Host) -> None:
    """It was chosen when the model was compiled."""
    refused(released, host, "compiled with its own", kv_cache_dtype=torch.float16)


def test_options(released: Released, host: Host) -> None:
    """Unknown ones with the nearest, and bad values, at once."""
    refused(released, host, "2 settings.*(?s:.*)", driver={"every_tokn": True, "every_token": 3})
    refused(released, host, "Did you mean 'every_token'", driver={"every_tokn": True})


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"architectures": ["MobilintQwen2VLForConditionalGeneration"]}, "Qwen2VL.*Mobil.*Qwen3"),
        ({"architectures": ["LlamaForCausalLM"]}, "names the architecture LlamaForCausalLM"),
        ({"hidden_size": 0}, "hidden_size: .*greater than 0"),
        ({"vocab_size": None}, "vocab_size: Field required"),
        ({"mxq_path": None}, "mxq_path.*Field required"),
        ({"npu_prefill_chunk_size": {"single": -1}}, "npu_prefill_chunk_size"),
        ({"max_batch_size": "four"}, "max_batch_size"),
        ({"dev_no": -1}, "dev_no"),
        ({"vocab_size": VOCAB + 1}, rf"\[{VOCAB}, {HIDDEN}\].*config.json says"),
        ({"hidden_size": HIDDEN * 2}, rf"\[{VOCAB}, {HIDDEN}\].*config.json says"),
    ],
)
def test_config(fields: dict[str, Any], match: str, released: Released, host: Host) -> None:
    """Fields that are missing or make no sense."""
    released.say(**fields)
    refused(released, host, match)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_no_config(text: str | None, released: Released, host: Host) -> None:
    """Missing, or no JSON object."""
    path = released.directory / "config.json"
    path.unlink() if text is None else path.write_text(text)
    refused(released, host, r"config\.json")


def test_embeddings(released: Released, host: Host) -> None:
    """Missing, ambiguous, of another type, or damaged."""
    path, table = released.directory / "model.safetensors", released.table
    save_file({"lm_head.weight": table}, path)
    refused(released, host, "one tensor whose name ends in .* found none")
    save_file({"a.embed_tokens.weight": table, "b.embed_tokens.weight": table.clone()}, path)
    refused(released, host, "found 'a.embed.*, 'b.embed")
    save_file({"embed_tokens.weight": table.to(torch.int8)}, path)
    refused(released, host, "torch.int8")
    path.write_bytes(b"\xff" * 64)
    refused(released, host, "is damaged")


@pytest.mark.parametrize(
    ("compiled", "match"),
    [
        ({"inputs": 2}, "has 2 inputs"),
        ({"length": 0}, "no length"),
    ],
)
def test_model_of_another_kind(
    compiled: dict[str, Any], match: str, released: Released, host: Host
) -> None:
    """One for images, or without a KV cache."""
    released.compile(**compiled)
    refused(released, host, match)


def test_model_of_another_vocabulary(released: Released, host: Host) -> None:
    """The first run tells."""
    from .fake import write_model

    write_model(released.directory / "model.mxq", hidden=HIDDEN, vocab=VOCAB + 2)
    refused(released, host, rf"logits \[1, {VOCAB + 2}\].*vocabulary of {VOCAB}")


def test_first_run_that_fails(released: Released, host: Host) -> None:
    """Frees the board."""
    host.faults = ["BadAlloc"]
    with pytest.raises(OutOfMemoryError, match="A first run: BadAlloc"):
        released.open()
    assert not host.models

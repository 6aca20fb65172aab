"""What can't be compiled is refused before any work, with the fix; a failure leaves nothing."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.errors import ConfigurationError

from .checkpoints import CHECKPOINTS


@pytest.fixture
def source(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """A checkpoint that may be changed."""
    import shutil

    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))


def refusal(source: Path | str, target: Path | None = None, **options: Any) -> str:
    from vllm_npu_runtime.export.compile import compile_artifact

    target = target or Path(source).parent / "out"
    with pytest.raises(ConfigurationError) as caught:
        compile_artifact(source, target, **options)
    assert not target.exists()
    assert not list(target.parent.glob(".out*"))
    return str(caught.value)


def change(source: Path, **fields: Any) -> None:
    path = source / "config.json"
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: each for key, each in content.items() if each is not None}))


def rename(source: Path, names: dict[str, str | None], **more: torch.Tensor) -> None:
    """Rename tensors of a checkpoint, or take them away."""
    from safetensors.torch import load_file, save_file

    held = load_file(source / "model.safetensors")
    new = {names.get(name, name): tensor for name, tensor in held.items()}
    new.pop(None, None)
    save_file({**new, **more}, source / "model.safetensors", {"format": "pt"})


def test_an_architecture_without_a_family(source: Path) -> None:
    change(source, architectures=["BertModel"])
    text = refusal(source)
    assert "architecture BertModel" in text
    assert all(name in text for name in ("LlamaForCausalLM", "Exaone4ForCausalLM"))


def test_a_model_with_code_of_its_own(source: Path) -> None:
    (source / "modeling_own.py").write_text("raise SystemExit('remote code was run')")
    change(source, architectures=["OwnForCausalLM"], auto_map={"AutoConfig": "modeling_own.Own"})
    text = refusal(source)
    assert "OwnForCausalLM" in text and "code of its own (auto_map), which is never run" in text


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_checkpoint_that_is_quantized_already(source: Path, key: str) -> None:
    change(source, **{key: {"quant_method": "gptq", "bits": 4}})
    text = refusal(source)
    assert "quantized already (gptq" in text and "--weights int8 or int4" in text


def test_lengths_that_the_model_does_not_allow(source: Path) -> None:
    for length in (257, 0, -5):
        assert f"--max-model-len {length}: the model allows 1 to 256" in refusal(
            source, max_model_len=length
        )


@pytest.mark.parametrize("option", ["max_batch_size", "prefill_chunk_size"])
def test_sizes_below_one(source: Path, option: str) -> None:
    flag = "--" + option.replace("_", "-")
    assert f"{flag} 0: it must be at least 1" in refusal(source, **{option: 0})
    assert f"{flag} single=-1" in refusal(source, **{option: {"single": -1}})
    assert f"{flag} is empty" in refusal(source, **{option: {}})


def test_several_requests_where_one_is_held(source: Path) -> None:
    text = refusal(source, device="openvino:NPU", max_batch_size=4)
    assert "--max-batch-size 4" in text and "one request at a time" in text


@pytest.mark.parametrize("device", ["reference", "sim:large"])
def test_a_blob_for_a_device_that_compiles_nothing(source: Path, device: str) -> None:
    text = refusal(source, device=device, blob=True)
    assert f"--blob: sessions on {device} have nothing" in text and "openvino:NPU" in text


def test_a_blob_with_paged_attention(source: Path) -> None:
    text = refusal(source, device="openvino:CPU", blob=True)
    assert "--blob: sessions on openvino:CPU have paged attention" in text


def test_a_blob_for_a_device_that_is_elsewhere(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm_npu_runtime.export import request

    def nowhere(spec: str) -> None:
        raise ConfigurationError.unknown("device", spec, ())

    monkeypatch.setattr(request, "find", nowhere)
    text = refusal(source, device="openvino:NPU", blob=True)
    assert "--blob: openvino:NPU isn't on this machine" in text


def test_unknown_names(source: Path) -> None:
    assert "Did you mean 'float16'?" in refusal(source, dtype="f16")
    assert "Did you mean 'int8'?" in refusal(source, weights="int5")
    assert "Did you mean 'openvino'?" in refusal(source, device="opnvino:CPU")
    assert "Unknown device 'openvino:TPU'" in refusal(source, device="openvino:TPU")


def test_a_device_whose_models_another_compiler_makes(source: Path) -> None:
    assert "Mobilint's own compiler" in refusal(source, device="mobilint:0")


def test_a_device_that_opens_no_artifacts(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from vllm_npu_runtime.drivers.reference import ReferenceDriver

    able = ReferenceDriver.capabilities
    monkeypatch.setattr(
        ReferenceDriver, "capabilities", lambda *given: replace(able(*given), stateful=False)
    )
    assert "--device reference: it opens no artifacts" in refusal(source, device="reference")


@pytest.mark.parametrize("device", ["reference", "sim", "openvino", "openvino:CPU"])
def test_devices_that_open_them(device: str) -> None:
    from vllm_npu_runtime.export.request import Request, plan
    from vllm_npu_runtime.export.skeleton import config_of

    config = config_of({"model_type": "llama", "dtype": "float32"})
    assert plan(Request(device), config).device.startswith(device)


def test_a_dtype_that_the_device_does_not_compute_in(source: Path) -> None:
    assert "--dtype bfloat16: openvino:NPU serves float16" in refusal(
        source, device="openvino:NPU", dtype="bfloat16"
    )


def test_all_problems_are_told_at_once(source: Path) -> None:
    text = refusal(source, device="nowhere", dtype="f16", weights="int5", max_model_len=10**6)
    assert "4 settings" in text


def test_rotary_embeddings_that_change_with_the_length(source: Path) -> None:
    change(source, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert "type 'dynamic' change with the length" in refusal(source)


def test_a_config_that_transformers_refuses(source: Path) -> None:
    change(source, hidden_size="wide")
    assert "config.json is refused by transformers" in refusal(source)


def test_tensors_that_are_missing(source: Path) -> None:
    rename(source, {"model.layers.1.mlp.up_proj.weight": None, "model.norm.weight": None})
    assert "lacks model.layers.1.mlp.up_proj.weight, model.norm.weight." in refusal(source)


def test_tensors_that_nobody_asked_for(source: Path) -> None:
    rename(source, {}, **{"model.layers.0.self_attn.sinks": torch.zeros(4)})
    assert "no use for: model.layers.0.self_attn.sinks" in refusal(source)


def test_a_tensor_of_another_shape(source: Path) -> None:
    rename(source, {}, **{"model.norm.weight": torch.zeros(65)})
    assert "model.norm.weight is [65]; by config.json it is [64]" in refusal(source)


def test_matrices_that_int4_does_not_fit(tmp_path: Path) -> None:
    from .checkpoints import _plain

    _plain("llama", intermediate_size=72)(tmp_path / "model")
    text = refusal(tmp_path / "model", weights="int4")
    assert "down_proj" in text and "72 inputs" in text and "--weights int8" in text


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_numbers_that_are_none(source: Path, weights: str) -> None:
    rename(source, {}, **{"model.layers.0.mlp.up_proj.weight": torch.full((96, 64), torch.nan)})
    assert "infinities or NaN" in refusal(source, weights=weights)


def test_a_directory_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no config.json, so it is no Hugging Face checkpoint" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "a/b/c"])
def test_a_directory_that_is_not_there(model: str, tmp_path: Path) -> None:
    assert f"{model} is no directory" in refusal(model, tmp_path / "out")


def test_a_model_that_can_not_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    text = refusal("nobody/nothing-at-all", tmp_path / "out")
    assert "nobody/nothing-at-all is no directory, and can't be downloaded" in text


def test_weights_that_are_pickled(source: Path) -> None:
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    assert "safetensors alone" in refusal(source)


def test_weights_that_are_cut_short(source: Path) -> None:
    with (source / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert "model.safetensors can't be read" in refusal(source)


def test_an_index_of_files_that_are_not_there_or_elsewhere(source: Path) -> None:
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "part-1.safetensors"}}))
    assert "lacks part-1.safetensors" in refusal(source)
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../x.safetensors"}}))
    assert "'../x.safetensors', which isn't a file of the checkpoint's own" in refusal(source)


def test_a_checkpoint_in_several_files(source: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from vllm_npu_runtime.export.compile import compile_artifact
    from vllm_npu_runtime.export.torch_model import load_model

    held = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    files = {name: f"part-{number % 3}.safetensors" for number, name in enumerate(held)}
    for file in set(files.values()):
        save_file({name: held[name] for name in held if files[name] == file}, source / file)
    index = {"metadata": {}, "weight_map": files}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    artifact = compile_artifact(source, tmp_path / "out", dtype="float32")
    for name, parameter in load_model(artifact).named_parameters():
        assert torch.equal(parameter, held[name])


def test_a_directory_that_is_there(source: Path, tmp_path: Path) -> None:
    from vllm_npu_runtime.export.compile import compile_artifact

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("…")
    for force, text in ((False, "exists already"), (True, "holds no artifact")):
        with pytest.raises(ConfigurationError, match=text):
            compile_artifact(source, tmp_path / "out", force=force)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_force_compiles_anew(source: Path, tmp_path: Path) -> None:
    from vllm_npu_runtime.export.compile import compile_artifact

    first = compile_artifact(source, tmp_path / "out", dtype="float32", max_model_len=64)
    again = compile_artifact(source, tmp_path / "out", dtype="float32", force=True)
    assert (first.manifest.limits.max_model_len, again.manifest.limits.max_model_len) == (64, 256)
    assert Artifact.open(tmp_path / "out").identity == again.identity != first.identity


def test_the_same_again_is_the_same(source: Path, tmp_path: Path) -> None:
    from vllm_npu_runtime.export.compile import compile_artifact

    one, other = (
        compile_artifact(source, tmp_path / name, dtype="float32") for name in ("one", "other")
    )
    weights = "model.safetensors"
    assert one.manifest.files[weights] == other.manifest.files[weights]


@pytest.mark.parametrize("place", ["tensor_file.TensorFile.write", "ir.Drawing.write"])
def test_an_interruption_leaves_nothing(
    place: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm_npu_runtime.export.compile import compile_artifact

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"vllm_npu_runtime.export.{place}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compile_artifact(source, tmp_path / "out", dtype="float32")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_disk_that_fills_up_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert "is full" in refusal(source, dtype="float32")


def test_a_disk_with_too_little_room_is_told_beforehand(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")(2**30, 2**30 - 1000, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "1 KiB left" in refusal(source, dtype="float32")


def test_every_family_has_a_test() -> None:
    from vllm_npu_runtime.export.families import FAMILIES

    kinds = {name.split("-")[0] for name in CHECKPOINTS}
    assert {name.removesuffix("ForCausalLM").lower() for name in FAMILIES} == kinds

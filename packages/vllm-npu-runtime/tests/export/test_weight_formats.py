"""Weights are stored once, in the format that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from safetensors import safe_open

from .checkpoints import CHECKPOINTS
from .conftest import Compile
from .oracle import Stateful, logits_of, model_of, random_tokens

TORCH = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
MATRIX = "model.layers.1.mlp.down_proj.weight"


def tensors(artifact: Any) -> dict[str, torch.Tensor]:
    with safe_open(artifact.weights_path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("weights", ["f32", "bf16", "f16", "int8", "int4"])
def test_the_graph_computes_with_what_is_stored(weights: str, compiled: Compile) -> None:
    """In PyTorch with the numbers unpacked, and in OpenVINO: the same logits."""
    from vllm_npu_runtime.export.torch_model import load_model

    artifact = compiled("llama-wide", weights=weights)
    tokens = random_tokens(artifact, 1, 40)
    expected = logits_of(load_model(artifact), tokens)
    found = Stateful(artifact).read(tokens, (20, 1, 19))
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("weights", "bound"), [("bf16", 2**-8), ("f16", 2**-11), ("int8", 0.5 / 127), ("int4", 1 / 8)]
)
def test_numbers_are_as_near_as_the_format_allows(
    weights: str, bound: float, compiled: Compile, checkpoint: Callable[[str], Path]
) -> None:
    """Half a step of each group's largest number, and a whole one at int4's positive end."""
    from vllm_npu_runtime.export.torch_model import load_model

    original = dict(model_of(checkpoint("llama-wide")).named_parameters())
    for name, found in load_model(compiled("llama-wide", weights=weights)).named_parameters():
        expected = original[name]
        integers = weights.startswith("int")
        if expected.ndim == 1 or (integers and ("embed" in name or "head" in name)):
            assert torch.equal(found, expected), name
            continue
        columns = expected.shape[1]
        group = {256: 128}.get(columns, columns) if weights == "int4" else columns
        grouped = expected.view(len(expected), -1, group)
        largest = grouped.abs().amax(-1, keepdim=True)
        error = (found.view_as(grouped) - grouped).abs()
        assert (error <= largest * bound * 1.001).all(), name


def test_int4_shares_scales_among_as_many_as_fit(compiled: Compile) -> None:
    kept = tensors(compiled("llama-wide", weights="int4"))
    assert kept[MATRIX + "_scale"].shape == (64, 2, 1)  # 256 inputs by 128
    assert kept["model.layers.0.mlp.up_proj.weight_scale"].shape == (256, 1, 1)  # 64 by 64
    assert kept[MATRIX + "_packed"].shape == (64, 128)
    assert kept[MATRIX + "_packed"].dtype == torch.uint8


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_rows_of_zeros_stay_zeros(weights: str) -> None:
    from vllm_npu_runtime.export.weight_formats import matrices

    weight = torch.randn(4, 64)
    weight[2] = 0
    form = matrices(weights)
    packed = form.pack("w", weight)
    assert torch.equal(form.unpack("w", packed.__getitem__)[2], torch.zeros(64))
    assert all(tensor.isfinite().all() for tensor in packed.values())


@pytest.mark.parametrize("weights", ["f32", "bf16", "f16", "int8", "int4"])
def test_each_weight_is_stored_once(weights: str, compiled: Compile) -> None:
    artifact = compiled("llama-wide", weights=weights)
    kept = tensors(artifact)
    bits = {"f32": 32, "bf16": 16, "f16": 16, "int8": 8, "int4": 4}[weights]
    matrices = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 256)
    scales = sum(t.numel() for name, t in kept.items() if name.endswith("_scale"))
    tables = 2 * 112 * 64 * (TORCH.get(weights, torch.float32).itemsize)
    norms = 5 * 64 * 4
    expected = matrices * bits // 8 + scales * 4 + tables + norms
    constants = sum(t.nbytes for name, t in kept.items() if name.startswith("npu."))
    assert sum(t.nbytes for t in kept.values()) == expected + constants
    assert constants < 2**14
    header = artifact.weights_path.stat().st_size - expected - constants
    assert 0 < header < 2**14
    for graph in ("decoder", "lm_head"):
        assert artifact.graph_path(graph).stat().st_size < 2**19


def test_tied_embeddings_are_stored_once(compiled: Compile) -> None:
    tied, untied = tensors(compiled("llama")), tensors(compiled("llama-untied"))
    assert "lm_head.weight" in untied and "lm_head.weight" not in tied
    assert sum(tensor.shape == (112, 64) for tensor in tied.values()) == 1


def test_tensors_keep_hugging_faces_names(
    compiled: Compile, checkpoint: Callable[[str], Path]
) -> None:
    names = {name for name, _ in model_of(checkpoint("qwen3")).named_parameters()}
    own = {"npu.decoder.constants", "npu.lm_head.constants"}
    assert tensors(compiled("qwen3")).keys() == names | own


@pytest.mark.parametrize("weights", ["f32", "bf16", "int8", "int4"])
def test_constants_lie_in_the_file_aligned(weights: str, compiled: Compile) -> None:
    artifact = compiled("llama-wide", weights=weights)
    size = artifact.weights_path.stat().st_size
    for graph in ("decoder", "lm_head"):
        for layer in ElementTree.parse(artifact.graph_path(graph)).iterfind("layers/layer"):
            if layer.get("type") == "Const":
                data = layer.find("data")
                assert data is not None
                begin, count = (int(data.get(name, "")) for name in ("offset", "size"))
                assert begin + count <= size
                if "proj" in str(layer.get("name")):
                    assert begin % 64 == 0


def test_the_dtype_decides_where_nothing_else_does(compiled: Compile) -> None:
    manifest = compiled("llama-bf16", dtype="auto").manifest
    assert (manifest.dtype, manifest.weights) in (("bfloat16", "bf16"), ("float32", "f32"))
    mixed = compiled("llama-bf16", dtype="float32", weights="bf16")
    assert (mixed.manifest.dtype, mixed.manifest.weights) == ("float32", "bf16")
    assert mixed.embedding().dtype == torch.bfloat16


def test_a_bfloat16_checkpoint_keeps_its_numbers(
    compiled: Compile, checkpoint: Callable[[str], Path]
) -> None:
    from vllm_npu_runtime.export.torch_model import load_model

    artifact = compiled("llama-bf16", dtype="bfloat16")
    expected = dict(model_of(checkpoint("llama-bf16")).named_parameters())
    for name, found in load_model(artifact).named_parameters():
        assert found.dtype == torch.bfloat16
        assert torch.equal(found.float(), expected[name]), name


def test_numbers_too_large_for_float16_are_refused(
    tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    from safetensors.torch import load_file, save_file

    from vllm_npu_runtime.errors import ConfigurationError
    from vllm_npu_runtime.export.compile import compile_artifact

    CHECKPOINTS["llama"](tmp_path / "model")
    held = load_file(tmp_path / "model" / "model.safetensors")
    held[MATRIX][0, 0] = 1e6
    save_file(held, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match=f"{MATRIX} has numbers that float16 can't hold"):
        compile_artifact(tmp_path / "model", tmp_path / "out", dtype="float32", weights="f16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]

"""A quantized checkpoint, and the plain one of what its weights stand for."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs
from safetensors.torch import load_file, save_file

from tests.quantized import formats
from tests.quantized.rounding import round_to

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Written:
    """Two checkpoints of one model.

    Attributes:
        quantized: as a quantizer writes it.
        dense: float32, for whoever knows no quantization.
    """

    quantized: Path
    dense: Path


def write(
    source: Path,
    target: Path,
    method: str,
    bits: int = 4,
    group: int = 32,
    symmetric: bool = True,
    form: str = "pack-quantized",
) -> Written:
    """Quantize a checkpoint's linear layers.

    Args:
        source: a checkpoint of one safetensors file.
        target: gets a directory for each of the two.
        method: "gptq", "awq" or "compressed-tensors".
        bits: of a code.
        group: inputs that share a scale; -1: all.
        symmetric: whether zero is half of the range.
        form: compressed-tensors' format.
    """
    tensors = load_file(source / "model.safetensors")
    arguments = QuantizationArgs(
        num_bits=bits,
        type="int",
        symmetric=symmetric,
        strategy="channel" if group == -1 else "group",
        group_size=None if group == -1 else group,
    )
    packed: dict[str, torch.Tensor] = {}
    dense = {name: tensor.float() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        if not layer.endswith(PROJECTIONS):
            packed[name] = tensor
            continue
        rounded = round_to(tensor, bits, group, symmetric)
        dense[name] = rounded.dense
        if method == "gptq":
            made = formats.gptq(rounded, group)
        elif method == "awq":
            made = formats.awq(rounded, group)
        else:
            made = formats.compressed(rounded, arguments, form)
        packed |= {f"{layer}.{suffix}": each for suffix, each in made.items()}
    written = Written(target / "quantized", target / "dense")
    config = _config(method, bits, group, symmetric, form, arguments)
    _save(source, written.quantized, packed, {"quantization_config": config})
    _save(source, written.dense, dense, {"dtype": "float32", "torch_dtype": "float32"})
    return written


def _config(
    method: str, bits: int, group: int, symmetric: bool, form: str, arguments: QuantizationArgs
) -> dict[str, Any]:
    if method == "gptq":
        return {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": group,
            "sym": symmetric,
            "desc_act": False,
        }
    if method == "awq":
        return {
            "quant_method": "awq",
            "bits": bits,
            "group_size": group,
            "zero_point": True,
            "version": "gemm",
        }
    weights = json.loads(arguments.model_dump_json())
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


def _save(
    source: Path, target: Path, tensors: dict[str, torch.Tensor], entries: dict[str, Any]
) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | entries))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})

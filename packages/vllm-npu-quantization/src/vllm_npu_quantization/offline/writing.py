"""A compressed-tensors checkpoint, written file by file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vllm_npu_quantization.checkpoint.files import INDEX
from vllm_npu_quantization.offline.plan import SUFFIX, Plan
from vllm_npu_quantization.rounding import round_weight
from vllm_npu_runtime.errors import ConfigurationError

METADATA = {"format": "pt"}
_NOT_COPIED = ("*.safetensors", INDEX, "config.json", "*.bin", "*.pth", "*.gguf", ".*")


@dataclass(frozen=True)
class LayerReport:
    """How a layer came out.

    Attributes:
        name: of the layer.
        group_size: inputs that share a scale; -1: all.
        error: norm of the error over the norm of the weights.
        clipped: share of the weights that were outside of their group's range.
        parameters: weights of the layer.
    """

    name: str
    group_size: int
    error: float
    clipped: float
    parameters: int


def write(plan: Plan, target: Path, advance: Callable[[int], None]) -> list[LayerReport]:
    """Write the checkpoint; `target` appears when it is whole.

    Args:
        plan: what to do.
        target: a directory that doesn't exist, or is empty.
        advance: told of weights that are done, by their number.

    Raises:
        ConfigurationError: the target is taken, a weight is no number, or the disk is full.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{target} exists already. Name another directory.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            made = Path(scratch) / "checkpoint"
            ignored = shutil.ignore_patterns(*_NOT_COPIED)
            shutil.copytree(plan.directory, made, ignore=ignored)
            reports = _write_weights(plan, made, advance)
            config = plan.config | {"quantization_config": quantization_config(plan)}
            (made / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            if target.exists():
                target.rmdir()
            os.rename(made, target)
    except OSError as error:
        raise ConfigurationError(f"{target} can't be written: {error}.") from error
    return reports


def _write_weights(
    plan: Plan, directory: Path, advance: Callable[[int], None]
) -> list[LayerReport]:
    reports: list[LayerReport] = []
    places: dict[str, str] = {}
    total = 0
    for file, listed in plan.files.items():
        tensors: dict[str, torch.Tensor] = {}
        with safe_open(file, "pt") as opened:
            for entry in listed:
                tensor = opened.get_tensor(entry.name)
                layer = entry.name.removesuffix(SUFFIX)
                if layer not in plan.groups or layer == entry.name:
                    tensors[entry.name] = tensor
                    continue
                made, report = quantize(layer, tensor, plan.scheme.bits, plan.groups[layer])
                tensors |= {f"{layer}.{suffix}": each for suffix, each in made.items()}
                reports.append(report)
                advance(report.parameters)
        save_file(tensors, directory / file.name, METADATA)
        places |= dict.fromkeys(tensors, file.name)
        total += sum(each.nbytes for each in tensors.values())
    if (plan.directory / INDEX).is_file():
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return reports


def quantize(
    name: str, weight: torch.Tensor, bits: int, group_size: int
) -> tuple[dict[str, torch.Tensor], LayerReport]:
    """One layer in compressed-tensors' pack-quantized layout.

    Raises:
        ConfigurationError: weights that are no numbers.
    """
    if not bool(torch.isfinite(weight).all()):
        raise ConfigurationError(
            f"Layer '{name}' has weights that are NaN or infinity. Fetch the checkpoint again."
        )
    rounded = round_weight(weight, bits, group_size)
    tensors = {
        "weight_packed": rounded.weight.view(torch.int32),
        "weight_scale": rounded.scale,
        "weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    count = weight.numel()
    clipped = rounded.clipped / count
    return tensors, LayerReport(name, group_size, rounded.relative_error, clipped, count)


def quantization_config(plan: Plan) -> dict[str, Any]:
    """The entry of `config.json`: the most frequent group size for linear layers in general, and
    another group for each other size, which names its layers."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for layer, size in plan.groups.items():
        by_size[size].append(layer)
    usual = max(by_size, key=lambda size: len(by_size[size]))
    groups = {}
    for number, size in enumerate(sorted(by_size, key=lambda size: size != usual)):
        targets = ["Linear"] if size == usual else sorted(by_size[size])
        groups[f"group_{number}"] = {
            "targets": targets,
            "weights": _weights(plan.scheme.bits, size),
            "input_activations": None,
            "output_activations": None,
        }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        # A head that is tied to the embeddings has no tensor of its own, but vLLM asks for it.
        "ignore": sorted({*plan.kept, *({"lm_head"} - plan.groups.keys())}),
        "kv_cache_scheme": None,
    }


def _weights(bits: int, group_size: int) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": "channel" if group_size == -1 else "group",
        "group_size": None if group_size == -1 else group_size,
        "dynamic": False,
        "actorder": None,
        "block_structure": None,
        "observer": "mse",
        "observer_kwargs": {},
    }

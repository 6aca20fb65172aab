"""Which tensors of a checkpoint are quantized, and how."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vllm_npu_quantization.checkpoint.files import Entry, entries, files
from vllm_npu_quantization.on_load.coverage import check_coverage
from vllm_npu_runtime.errors import ConfigurationError

FLOATS = ("F32", "F16", "BF16")
SUFFIX = ".weight"
HEADS = ("lm_head",)


@dataclass(frozen=True)
class Scheme:
    """What weights are rounded to.

    Attributes:
        name: as in "w4a16".
        bits: of a code.
        group_sizes: best first; -1 is a whole row and fits always.
    """

    name: str
    bits: int
    group_sizes: tuple[int, ...]

    def group_size(self, inputs: int) -> int | None:
        """The first that divides the inputs; None if none does."""
        return next((size for size in self.group_sizes if size == -1 or inputs % size == 0), None)


SCHEMES: Mapping[str, Scheme] = {
    each.name: each for each in (Scheme("w4a16", 4, (128, 64)), Scheme("w8a16", 8, (-1,)))
}


@dataclass(frozen=True)
class Plan:
    """A checkpoint's tensors, file by file.

    Attributes:
        directory: that holds it.
        config: its `config.json`.
        scheme: of the layers in `groups`.
        files: its weights files in order, each with its tensors.
        groups: group size of each layer that is quantized, by the layer's name.
        kept: linear layers that stay as they are, with the reason.
    """

    directory: Path
    config: dict[str, Any]
    scheme: Scheme
    files: dict[Path, tuple[Entry, ...]]
    groups: dict[str, int]
    kept: dict[str, str]


def make_plan(directory: Path, scheme: str, skip: tuple[str, ...], lm_head: bool) -> Plan:
    """Look at a checkpoint's headers alone.

    Args:
        directory: that holds it.
        scheme: a name in `SCHEMES`.
        skip: regular expressions; layers whose name has a match stay as they are.
        lm_head: whether the LM head is quantized too.

    Raises:
        ConfigurationError: no such scheme, no plain checkpoint, or nothing to quantize.
    """
    if scheme not in SCHEMES:
        raise ConfigurationError.unknown("scheme", scheme, SCHEMES)
    config = _config(directory)
    try:
        found = {file: tuple(entries(file)) for file in files(directory)}
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(f"{directory} is damaged: {error}. Fetch it again.") from error
    if not found:
        raise ConfigurationError(
            f"{directory} has no safetensors files. `save_pretrained` of transformers writes them."
        )
    linear = _linear_layers(directory, config)
    check_coverage("--skip", skip, sorted(linear), ())
    plan = Plan(directory, config, SCHEMES[scheme], found, {}, {})
    for entry in (each for listed in found.values() for each in listed):
        layer = entry.name.removesuffix(SUFFIX)
        if layer in linear and entry.name != layer:
            _decide(plan, layer, entry, skip, lm_head)
    if not plan.groups:
        raise ConfigurationError(
            f"{directory} has no linear layer that would be quantized"
            + "".join(f"; {name}: {reason}" for name, reason in sorted(plan.kept.items())[:3])
            + "."
        )
    return plan


def _decide(plan: Plan, layer: str, entry: Entry, skip: tuple[str, ...], lm_head: bool) -> None:
    size = plan.scheme.group_size(entry.shape[-1])
    words = 32 // plan.scheme.bits
    if layer.rpartition(".")[2] in HEADS and not lm_head:
        plan.kept[layer] = "the LM head"
    elif any(re.search(pattern, layer) for pattern in skip):
        plan.kept[layer] = "skipped by pattern"
    elif entry.dtype not in FLOATS or len(entry.shape) != 2:
        plan.kept[layer] = f"{entry.dtype} {list(entry.shape)}"
    elif size is None or entry.shape[1] % words:
        plan.kept[layer] = f"{entry.shape[1]} inputs fit no group size and no whole words"
    else:
        plan.groups[layer] = size


def _config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / "config.json").read_text())
    except FileNotFoundError:
        raise ConfigurationError(f"{directory} has no config.json: it is no checkpoint.") from None
    except ValueError as error:
        raise ConfigurationError(f"{directory / 'config.json'} is no JSON: {error}.") from None
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            method = config[key].get("quant_method", "by an unknown method")
            raise ConfigurationError(
                f"{directory} is quantized already ({method}). Name the original checkpoint."
            )
    return dict(config)


def _linear_layers(directory: Path, config: Mapping[str, Any]) -> set[str]:
    """Names of the modules of class Linear in the model that transformers makes of the config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        made = AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(made)
    except (ValueError, KeyError, OSError) as error:
        kind = config.get("model_type")
        raise ConfigurationError(
            f"transformers makes no language model of {directory} ({kind}): {error}"
        ) from error
    return set(_linear_names(model))


def _linear_names(model: Any) -> Iterator[str]:
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name

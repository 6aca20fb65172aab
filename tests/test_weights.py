"""Weights may change under a running engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from tests.asking import expected, greedy
from tests.prompts import mixed_prompts

if TYPE_CHECKING:
    from tests.conftest import Engines


def test_reloaded_weights_are_used_by_graphs_that_exist(
    engines: Engines, tiny_model: Callable[[str], Path], contract: str, tmp_path: Path
) -> None:
    """Another checkpoint of the same shape is loaded, and then the first again."""
    path = tiny_model("llama")
    other = tmp_path / "other"
    shutil.copytree(path, other)
    generator = torch.Generator().manual_seed(1)
    weights = load_file(other / "model.safetensors")
    for name, tensor in weights.items():
        noise = tensor.new_empty(tensor.shape).normal_(generator=generator)
        weights[name] = tensor + 0.2 * tensor.std().nan_to_num(0.0) * noise
    save_file(weights, other / "model.safetensors", {"format": "pt"})

    prompts = mixed_prompts(path, count=6, longest=100)
    llm = engines.get("llama", contract)
    for checkpoint in (path, other, path):
        llm.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint)})
        llm.reset_prefix_cache()
        assert greedy(llm, prompts, 12) == expected(checkpoint, prompts, 12)
    assert expected(path, prompts, 12) != expected(other, prompts, 12)

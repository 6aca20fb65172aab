"""Directories like those that `vllm-npu compile` writes, without a model in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vllm_npu_runtime.artifact.manifest import (
    Embedding,
    Graph,
    Limits,
    Manifest,
    ModelSizes,
    Port,
)
from vllm_npu_runtime.artifact.names import MANIFEST
from vllm_npu_runtime.artifact.writing import records_of, write_manifest

EMBEDDING = torch.arange(40, dtype=torch.float32).reshape(10, 4)


def fill(directory: Path, **changes: Any) -> None:
    """Write an artifact into an empty directory.

    Args:
        directory: to write to.
        changes: of the manifest.
    """
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "decoder.xml").write_text("<net/>")
    (directory / "lm_head.xml").write_text("<net/>")
    (directory / "chat").mkdir()
    (directory / "chat" / "template.jinja").write_text("{{ messages }}")
    save_file({"model.embed_tokens.weight": EMBEDDING}, directory / "model.safetensors")
    hidden = Port(name="hidden", dtype="f32", shape=(-1, 4))
    graphs = {
        name: Graph(file=f"{name}.xml", inputs=(hidden,), outputs=(hidden,))
        for name in ("decoder", "lm_head")
    }
    known: dict[str, Any] = {
        "format_version": 1,
        "made_by": {"vllm-npu-runtime": "0.1.0"},
        "source": "made/up",
        "architecture": "NPULlamaForCausalLM",
        "device": "openvino:CPU",
        "dtype": "float32",
        "weights": "f32",
        "model": ModelSizes(
            hidden_size=4,
            vocab_size=10,
            layers=2,
            kv_heads=1,
            head_size=4,
            sliding_windows=(None, 8),
        ),
        "limits": Limits(max_model_len=64, max_batch_size=2, prefill_chunk_size=16),
        "graphs": graphs,
        "embedding": Embedding(tensor="model.embed_tokens.weight"),
        "files": records_of(directory),
    }
    write_manifest(directory, Manifest(**(known | changes)))


def rewrite(directory: Path, change: Any) -> None:
    """Change a manifest's JSON.

    Args:
        directory: of the artifact.
        change: called with the parsed manifest, which it changes.
    """
    path = directory / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))

"""``vllm-npu inspect``: what an artifact is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_npu_runtime.cli.failing import told
from vllm_npu_runtime.doctor.sizes import in_words

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.directory import Artifact
    from vllm_npu_runtime.artifact.manifest import Port


def inspect(
    directory: Annotated[Path, typer.Argument(help="Of the artifact.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an artifact was made from, and what for.

    Names and sizes of its files are checked, their contents not: `vllm-npu verify` does that.
    """
    from vllm_npu_runtime.artifact.directory import Artifact

    with told():
        artifact = Artifact.open(directory, verify=False)
    if as_json:
        found = {
            "directory": str(directory),
            "identity": artifact.identity,
            "size": artifact.size,
            "manifest": artifact.manifest.model_dump(mode="json"),
        }
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(artifact)


def _print(artifact: Artifact) -> None:
    from rich import box
    from rich.table import Table

    from vllm_npu_runtime.cli.console import wide_console

    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    for name, value in _rows(artifact):
        table.add_row(name, value)
    wide_console().print(table)


def _rows(artifact: Artifact) -> Iterator[tuple[str, str]]:
    manifest = artifact.manifest
    model, limits = manifest.model, manifest.limits
    yield "Artifact", str(artifact.directory)
    yield "Identity", artifact.identity
    yield "Made from", manifest.source
    yield "Made by", ", ".join(f"{name} {number}" for name, number in manifest.made_by.items())
    yield "Format version", str(manifest.format_version)
    yield "Architecture", manifest.architecture
    yield "Device", manifest.device
    yield "Arithmetic", manifest.dtype
    yield "Weights", manifest.weights
    yield "Layers", f"{model.layers}, with {model.kv_heads} KV heads of size {model.head_size}"
    yield "Hidden size", str(model.hidden_size)
    yield "Vocabulary", str(model.vocab_size)
    yield "Sliding windows", _windows(model.sliding_windows)
    yield "Longest request", f"{limits.max_model_len} tokens"
    yield "Requests at once", _by_mode(limits.max_batch_size)
    yield "Prefill chunk", f"{_by_mode(limits.prefill_chunk_size)} tokens"
    for name, graph in manifest.graphs.items():
        inputs, outputs = (", ".join(map(_port, ports)) for ports in (graph.inputs, graph.outputs))
        yield f"Graph {name}", f"{inputs} -> {outputs}"
    for name, blob in manifest.blobs.items():
        yield f"Blob of {name}", f"{blob.file}, by {blob.fingerprint}"
    for name, record in manifest.files.items():
        yield name, in_words(record.size)
    yield "Together", in_words(artifact.size)


def _by_mode(value: int | Mapping[str, int]) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{size} ({mode})" for mode, size in value.items())
    return str(value)


def _windows(windows: tuple[int | None, ...]) -> str:
    if not any(windows):
        return "none"
    counts = Counter(windows)
    return ", ".join(
        f"{count} layers of {window} tokens" if window else f"{count} layers without"
        for window, count in counts.items()
    )


def _port(port: Port) -> str:
    extents = ", ".join("?" if extent == -1 else str(extent) for extent in port.shape)
    return f"{port.name} {port.dtype}[{extents}]"

"""Tensors of a checkpoint on disk by layer; headers are read at once, small tensors on demand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
        file: that holds it.
        name: in the file.
        dtype: as safetensors names it, as in "I32".
        shape: its extents.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    def load(self) -> torch.Tensor:
        """Its values."""
        with safe_open(self.file, "pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(self.name)
        return tensor


Layer = Mapping[str, Entry]
"""A layer's tensors by the last part of their names, as in "qweight"."""


def directory_of(model: str, revision: str | None) -> Path | None:
    """Where a model's files lie; None for one that has yet to be fetched."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def is_whole(directory: Path) -> bool:
    """Whether all weights files are there. Some may have yet to be fetched."""
    named = files(directory)
    return bool(named) and all(file.is_file() for file in named)


def layers(directory: Path) -> tuple[dict[str, Layer], list[str]]:
    """A checkpoint's layers by name, and a line for each file that can't be read."""
    found: dict[str, dict[str, Entry]] = defaultdict(dict)
    problems = []
    for file in files(directory):
        try:
            for entry in entries(file):
                layer, _, suffix = entry.name.rpartition(".")
                found[layer][suffix] = entry
        except (SafetensorError, OSError) as error:
            problems.append(f"file '{file}' is damaged ({error}). Fetch it again.")
    return dict(found), problems


def files(directory: Path) -> list[Path]:
    """The weights files of a checkpoint; none if its index can't be read."""
    index = directory / INDEX
    if not index.is_file():
        return sorted(directory.glob("*.safetensors"))
    try:
        named = {str(each) for each in json.loads(index.read_text())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError):
        # Whoever loads the checkpoint says so.
        return []
    # None from elsewhere on the disk.
    return sorted(directory / each for each in named if Path(each).name == each)


def entries(file: Path) -> Iterator[Entry]:
    """The tensors of a file, from its header.

    Raises:
        SafetensorError, OSError: it can't be read.
    """
    with safe_open(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118  (not a mapping)
            view = opened.get_slice(name)
            yield Entry(file, name, view.get_dtype(), tuple(view.get_shape()))

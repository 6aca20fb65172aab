"""An artifact: a directory that was checked, and what lies in it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_npu_runtime.artifact.checking import ANEW, problems, read_manifest, refusal
from vllm_npu_runtime.artifact.names import CONFIG, MANIFEST, WEIGHTS
from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

    from vllm_npu_runtime.artifact.manifest import Manifest


@dataclass(frozen=True)
class Artifact:
    """A model compiled ahead of time.

    Files that the manifest doesn't list may lie beside the others; nobody reads them.

    Attributes:
        directory: that holds it.
        manifest: what it says of itself.
        identity: SHA-256 of the manifest, in hexadecimal: since that holds the checksums of all
            files, no two different artifacts have the same.
    """

    directory: Path
    manifest: Manifest
    identity: str

    @classmethod
    def open(cls, directory: Path | str, verify: bool = True) -> Artifact:
        """The artifact in a directory, checked.

        Args:
            directory: as `vllm-npu compile` wrote it.
            verify: read every file and compare its SHA-256; without it, names, links and sizes
                are checked alone.

        Raises:
            ConfigurationError: it isn't what its manifest says. Names every file that is wrong,
                what was found, and how to mend it.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        if found := list(problems(directory, manifest, verify)):
            raise refusal(directory, found)
        text = (directory / MANIFEST).read_bytes()
        return cls(directory, manifest, hashlib.sha256(text).hexdigest())

    @property
    def weights_path(self) -> Path:
        """The safetensors file, into which the graphs point."""
        return self.directory / WEIGHTS

    @property
    def size(self) -> int:
        """Bytes of all its files but the manifest."""
        return sum(record.size for record in self.manifest.files.values())

    def graph_path(self, name: str) -> Path:
        """The IR of a graph; `core.read_model(graph_path, weights_path)` reads it.

        Args:
            name: `names.DECODER` or `names.LM_HEAD`.

        Raises:
            ConfigurationError: there is no such graph.
        """
        if name not in self.manifest.graphs:
            raise ConfigurationError.unknown("graph", name, self.manifest.graphs)
        return self.directory / self.manifest.graphs[name].file

    def config(self) -> dict[str, Any]:
        """`config.json`.

        Raises:
            ConfigurationError: it is no JSON object.
        """
        try:
            found = json.loads((self.directory / CONFIG).read_bytes())
        except ValueError as error:
            raise refusal(self.directory, [f"{CONFIG} is no JSON: {error}. {ANEW}"]) from None
        if not isinstance(found, dict):
            raise refusal(self.directory, [f"{CONFIG} holds no object. {ANEW}"])
        return found

    def embedding(self) -> torch.Tensor:
        """Token embeddings, `[vocab_size, hidden_size]`, mapped from the weights file.

        Multiply by `manifest.embedding.scale` what is looked up in it. Don't write to it.

        Raises:
            ConfigurationError: there is no such tensor, or it is of another shape.
        """
        from safetensors import SafetensorError, safe_open

        name, model = self.manifest.embedding.tensor, self.manifest.model
        expected = [model.vocab_size, model.hidden_size]
        try:
            with safe_open(self.weights_path, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except SafetensorError as error:
            problem = f"{WEIGHTS} has no tensor '{name}' to embed tokens with ({error}). {ANEW}"
            raise refusal(self.directory, [problem]) from None
        if list(tensor.shape) != expected or not tensor.is_floating_point():
            problem = (
                f"tensor '{name}' in {WEIGHTS} is {tensor.dtype} {list(tensor.shape)}; "
                f"{MANIFEST} says {expected} of a floating-point type. {ANEW}"
            )
            raise refusal(self.directory, [problem])
        return tensor

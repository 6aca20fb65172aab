"""A graph found in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_npu_runtime import __version__
from vllm_npu_runtime.compile_cache.manifest import verified
from vllm_npu_runtime.program import Binding, Program

if TYPE_CHECKING:
    import torch


@dataclass
class Saved:
    """A saved graph, verified.

    Attributes:
        directory: what the driver's `save` wrote; its `load` reads it.
        name: of the program.
        inputs: of the program.
        outputs: of the program.
    """

    directory: Path
    name: str
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]

    @classmethod
    def at(cls, directory: Path, suite: str = __version__) -> Saved:
        """The graph in a directory.

        Raises:
            DamagedError, FileNotFoundError, OSError: see `verified`.
        """
        manifest = verified(directory, suite)
        inputs, outputs = (
            tuple(record.binding() for record in records)
            for records in (manifest.inputs, manifest.outputs)
        )
        return cls(directory, manifest.program, inputs, outputs)

    def program(self, weights: Mapping[str, torch.Tensor] | None = None) -> Program:
        """The program for `Driver.load`: everything but its graph, which is empty.

        Args:
            weights: tensors of its `Kind.WEIGHT` inputs; the cache keeps none.
        """
        import torch

        empty = torch.fx.GraphModule({}, torch.fx.Graph())
        return Program(self.name, empty, self.inputs, self.outputs, dict(weights or {}))

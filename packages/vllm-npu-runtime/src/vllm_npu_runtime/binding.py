"""The tensors that an executable holds: checked once when bound, read at every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from vllm_npu_runtime.errors import BadShapeError
from vllm_npu_runtime.program import Program


class Bound:
    """A program's arguments, by name and in order. Any driver may build on it."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._index = {binding.name: i for i, binding in enumerate(program.inputs)}
        self._arguments: list[torch.Tensor | None] = [None] * len(program.inputs)
        self._missing = set(self._index)
        self.bind(program.weights)

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Hold tensors from now on; where one doesn't fit, none is taken.

        Raises:
            BadShapeError: see `check`.
        """
        self.check(tensors)
        for name, tensor in tensors.items():
            self._arguments[self._index[name]] = tensor
        self._missing -= tensors.keys()

    def check(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Refuse what can't be bound.

        Raises:
            BadShapeError: a name that the program doesn't have, or another shape or dtype.
        """
        for name, tensor in tensors.items():
            if name not in self._index:
                raise BadShapeError(f"Program '{self._program.name}' has no input '{name}'.")
            wanted = self._program.inputs[self._index[name]]
            if not wanted.fits(tensor):
                raise BadShapeError(
                    f"Input '{name}' of program '{self._program.name}' is {tensor.dtype} "
                    f"{list(tensor.shape)}; it was compiled for {wanted.dtype} "
                    f"{['*' if each is None else each for each in wanted.shape]}."
                )

    def arguments(self) -> Sequence[torch.Tensor]:
        """All tensors in the order of the program's inputs.

        Raises:
            BadShapeError: some input was never bound.
        """
        if self._missing:
            raise BadShapeError(
                f"Program '{self._program.name}' runs without: {', '.join(sorted(self._missing))}."
            )
        return self._arguments  # type: ignore[return-value]

    def clear(self) -> None:
        """Let go of every tensor."""
        self._arguments = [None] * len(self._arguments)
        self._missing = set(self._index)

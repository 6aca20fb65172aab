"""An executable in pieces: the device's by the driver's executables, the host's by PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from vllm_npu_runtime.binding import Bound
from vllm_npu_runtime.drivers.base import Executable
from vllm_npu_runtime.drivers.reference import ReferenceExecutable
from vllm_npu_runtime.partition import VALUE, Partition, Piece
from vllm_npu_runtime.program import Kind, Program


class PartitionedExecutable:
    """Runs a program's pieces in order and hands tensors from one to the next without copies.

    Args:
        program: the whole.
        partition: its pieces.
        compile_piece: compiles a device piece. It is a program like any other, except that
            what it writes in place may be an input of `Kind.INPUT` too.
    """

    def __init__(
        self,
        program: Program,
        partition: Partition,
        compile_piece: Callable[[Program], Executable],
    ) -> None:
        self.program = program
        self.host_operators = partition.host_operators
        self._results = partition.outputs
        self._returned_inputs = {
            binding.name: index
            for index, binding in enumerate(program.inputs)
            if binding.name in partition.outputs
        }
        self._bound = Bound(program)
        self._stages: list[_Stage] = []
        try:
            for piece in partition.pieces:
                self._stages.append(_Stage(piece, compile_piece))
        except Exception:
            self.close()
            raise

    @property
    def memory(self) -> int:
        """Bytes of device memory that the device's pieces hold."""
        return sum(stage.executable.memory for stage in self._stages)

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `Executable.bind`."""
        self._bound.bind(tensors)
        for stage in self._stages:
            stage.executable.bind({k: tensors[k] for k in stage.inputs & tensors.keys()})

    def run(self) -> Sequence[torch.Tensor]:
        """See `Executable.run`."""
        arguments = self._bound.arguments()
        values = {name: arguments[index] for name, index in self._returned_inputs.items()}
        for stage in self._stages:
            stage.run(values)
        return [values[name] for name in self._results]

    def close(self) -> None:
        """See `Executable.close`."""
        for stage in self._stages:
            stage.close()
        self._bound.clear()


class _Stage:
    """One piece, compiled, with what it takes from earlier ones."""

    def __init__(self, piece: Piece, compile_piece: Callable[[Program], Executable]) -> None:
        program = piece.program
        make = compile_piece if piece.on_device else ReferenceExecutable
        self.executable: Executable = make(program)
        self.inputs = {binding.name for binding in program.inputs}
        self._outputs = [binding.name for binding in program.outputs]
        self._taken = [
            binding.name
            for binding in program.inputs
            if binding.kind is Kind.INPUT and binding.name.startswith(VALUE)
        ]
        self._held: dict[str, torch.Tensor] = {}

    def run(self, values: dict[str, torch.Tensor]) -> None:
        """Run on earlier pieces' values, and add this piece's."""
        # An executable that keeps its output buffers costs no binding after the first run.
        fresh = {
            name: values[name] for name in self._taken if self._held.get(name) is not values[name]
        }
        if fresh:
            self.executable.bind(fresh)
            self._held.update(fresh)
        values.update(zip(self._outputs, self.executable.run(), strict=True))

    def close(self) -> None:
        """Free the piece, and let go of what came from others."""
        self.executable.close()
        self._held.clear()

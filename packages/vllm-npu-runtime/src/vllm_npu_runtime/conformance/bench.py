"""The bench: captures a function, compiles it for the device under test, and binds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from vllm_npu_runtime.capture import Named, capture
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import CompileOptions, Executable
from vllm_npu_runtime.extents import Varying
from vllm_npu_runtime.ops.table import decompositions_for
from vllm_npu_runtime.program import Kind, Program

Tensors = Mapping[str, torch.Tensor]


class Bench:
    """Compiles for one device and closes what it compiled.

    Args:
        device: the device under test.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._made: list[Executable] = []

    def capture(
        self,
        function: Callable[[], Tensors],
        inputs: Tensors,
        weights: Tensors | None = None,
        caches: Tensors | None = None,
        varying: Mapping[str, Mapping[int, Varying]] | None = None,
    ) -> Program:
        """The program of a function over the tensors given.

        Args:
            function: see `vllm_npu_runtime.capture.capture`.
            inputs: by name.
            weights: by name.
            caches: by name.
            varying: by an input's name, its dimensions whose extent varies.
        """
        groups = {Kind.INPUT: inputs, Kind.WEIGHT: weights or {}, Kind.KV_CACHE: caches or {}}
        named = [
            Named(name, kind, tensor, (varying or {}).get(name, {}))
            for kind, tensors in groups.items()
            for name, tensor in tensors.items()
        ]
        replaced = decompositions_for(self.device.capabilities)
        return capture("conformance", function, named, replaced)

    def load(self, program: Program, options: CompileOptions | None = None) -> Executable:
        """A program compiled, with only its weights bound."""
        driver, name = self.device.driver, self.device.info.name
        executable = driver.compile(program, name, options or CompileOptions())
        self._made.append(executable)
        return executable

    def compile(
        self,
        function: Callable[[], Tensors],
        inputs: Tensors,
        weights: Tensors | None = None,
        caches: Tensors | None = None,
        varying: Mapping[str, Mapping[int, Varying]] | None = None,
        options: CompileOptions | None = None,
    ) -> Executable:
        """A function captured, compiled, and bound to the tensors that it was captured with."""
        program = self.capture(function, inputs, weights, caches, varying)
        executable = self.load(program, options)
        given = {**inputs, **(caches or {})}
        wanted = program.named(Kind.INPUT) | program.named(Kind.KV_CACHE)
        executable.bind({name: given[name] for name in wanted})
        return executable

    def close(self) -> None:
        """Close all executables."""
        for executable in self._made:
            executable.close()
        self._made.clear()


def run(executable: Executable) -> dict[str, torch.Tensor]:
    """One run's outputs by name, copied, so that they outlive the next run."""
    names = [output.name for output in executable.program.outputs]
    return {name: tensor.clone() for name, tensor in zip(names, executable.run(), strict=True)}

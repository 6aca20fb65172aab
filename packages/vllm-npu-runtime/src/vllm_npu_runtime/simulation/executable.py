"""A program loaded on a paper NPU."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence

import torch

from vllm_npu_runtime.binding import Bound
from vllm_npu_runtime.drivers.base import Executable
from vllm_npu_runtime.drivers.reference import ReferenceExecutable
from vllm_npu_runtime.partition import partition
from vllm_npu_runtime.partitioned import PartitionedExecutable
from vllm_npu_runtime.program import Kind, Program
from vllm_npu_runtime.simulation.cost import estimate, peak_activations
from vllm_npu_runtime.simulation.device import PaperDevice
from vllm_npu_runtime.simulation.faults import Call
from vllm_npu_runtime.simulation.memory import Loan


class SimExecutable:
    """Runs by PyTorch, within a device's limits.

    Args:
        program: what to run.
        device: where.
        timeout: seconds that a stalled run lasts; None: see `simulation.device`.
        realtime: whether a run takes its estimated time.

    Attributes:
        estimate: what a run costs; `estimate.seconds` per run.
        memory: bytes of activations, inputs and outputs. Weights and KV are counted once per
            device, with the first executable that binds them.
        host_operators: see `Executable`.
    """

    def __init__(
        self, program: Program, device: PaperDevice, timeout: float | None, realtime: bool
    ) -> None:
        self.program = program
        self._device = device
        self._timeout = timeout
        self._realtime = realtime
        self._checked = Bound(program)
        self._inner, launches = _load(program, device.sheet.operators)
        self.host_operators = self._inner.host_operators
        self.estimate = estimate(program, device.sheet, launches)
        buffers = sum(each.nbytes for each in program.named(Kind.INPUT).values())
        self.memory = peak_activations(program) + buffers
        self._loan = Loan(device.memory, f"Program '{program.name}'")
        device.take_slot()
        self._unload = weakref.finalize(self, _unload, device, self._loan)
        try:
            self._loan.take(self.memory)
            self._borrow(program.weights)
        except Exception:
            self._unload()
            raise

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `Executable.bind`; weights and KV caches take device memory.

        Raises:
            OutOfMemoryError: they don't fit; nothing is bound.
            DeviceLostError: the device is gone.
        """
        self._device.check_alive()
        self._checked.check(tensors)
        self._borrow(tensors)
        self._inner.bind(tensors)

    def run(self) -> Sequence[torch.Tensor]:
        """See `Executable.run`."""
        begin = time.perf_counter()
        self._device.check_in(Call.RUN, self._timeout)
        outputs = self._inner.run()
        if self._realtime:
            time.sleep(max(0.0, self.estimate.seconds - (time.perf_counter() - begin)))
        return outputs

    def close(self) -> None:
        """See `Executable.close`; gives back the slot and the memory, even of a lost device."""
        self._inner.close()
        self._checked.clear()
        self._unload()

    def _borrow(self, tensors: Mapping[str, torch.Tensor]) -> None:
        kinds = {each.name: each.kind for each in self.program.inputs}
        self._loan.extend({k: v for k, v in tensors.items() if kinds[k] is not Kind.INPUT})


def _load(program: Program, operators: frozenset[str] | None) -> tuple[Executable, int]:
    """What computes the values, and how many pieces the device starts for it."""
    if operators is None:
        return ReferenceExecutable(program), 1
    parts = partition(program, operators)
    launches = sum(piece.on_device for piece in parts.pieces)
    return PartitionedExecutable(program, parts, ReferenceExecutable), launches


def _unload(device: PaperDevice, loan: Loan) -> None:
    loan.close()
    device.free_slot()

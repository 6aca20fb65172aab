"""A paper NPU at work: its memory, its slots, its faults, and whether it is still there."""

from __future__ import annotations

import time
from collections import Counter
from threading import Lock

from vllm_npu_runtime.errors import DeviceLostError, DeviceTimeoutError, OutOfMemoryError
from vllm_npu_runtime.simulation.datasheet import Datasheet
from vllm_npu_runtime.simulation.faults import Call, Effect, Fault
from vllm_npu_runtime.simulation.memory import Memory
from vllm_npu_runtime.simulation.options import SimOptions

# A stalled call without a timeout would hang for ever; on paper a second makes the point.
PATIENCE = 1.0


class PaperDevice:
    """The state of one device, shared by its executables.

    Args:
        sheet: what it can do.
    """

    def __init__(self, sheet: Datasheet) -> None:
        self.sheet = sheet
        self.memory = Memory(sheet.memory)
        self._faults: tuple[Fault, ...] = ()
        self._calls: Counter[Call] = Counter()
        self._loaded = 0
        self._lost = False
        self._lock = Lock()

    def configure(self, options: SimOptions) -> None:
        """Apply the options that concern the device; they hold until others are given."""
        if options.memory is not None:
            self.memory.total = options.memory
        if options.fail is not None:
            self._faults = options.fail

    def check_in(self, call: Call, timeout: float | None) -> None:
        """Begin a call.

        Raises:
            DeviceLostError, DeviceTimeoutError, OutOfMemoryError: what was injected for it.
                A lost device stays lost.
        """
        with self._lock:
            self._calls[call] += 1
            number = self._calls[call]
            struck = {fault.effect for fault in self._faults if fault.strikes(call, number)}
            self._lost = self._lost or Effect.DEVICE_LOST in struck
        self.check_alive()
        if Effect.STALL in struck:
            patience = PATIENCE if timeout is None else timeout
            time.sleep(patience)
            raise DeviceTimeoutError(
                f"Device 'sim:{self.sheet.name}' did not answer {call} {number} within "
                f"{patience:g} s (injected)."
            )
        if Effect.OUT_OF_MEMORY in struck:
            raise OutOfMemoryError(
                f"Device 'sim:{self.sheet.name}' is out of memory at {call} {number} (injected): "
                f"{self.memory.free} of {self.memory.total} bytes are free."
            )

    def check_alive(self) -> None:
        """Raise `DeviceLostError` if the device is gone."""
        if self._lost:
            raise DeviceLostError(f"Device 'sim:{self.sheet.name}' is gone (injected).")

    def take_slot(self) -> None:
        """Load one more executable.

        Raises:
            OutOfMemoryError: all slots are taken.
        """
        with self._lock:
            if self._loaded >= self.sheet.slots:
                raise OutOfMemoryError(
                    f"Device 'sim:{self.sheet.name}' holds {self._loaded} executables, and has "
                    f"{self.sheet.slots} slots: close one first, or compile for fewer shapes."
                )
            self._loaded += 1

    def free_slot(self) -> None:
        """Unload an executable."""
        with self._lock:
            self._loaded -= 1

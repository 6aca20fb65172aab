"""``sim``: an NPU on paper.

PyTorch computes the values, so tokens are right; a datasheet sets the limits. What it doesn't
list is refused or goes to the host, memory and slots run out, faults strike on demand, and every
executable says how long a run would take. For tests, and for sizing a device before buying it.

Options (`CompileOptions.driver`): ``memory`` (bytes instead of the datasheet's), ``fail``
(faults to inject; the grammar is in `vllm_npu_runtime.simulation.faults`), ``realtime`` (a run
takes its estimated time).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vllm_npu_runtime import __version__
from vllm_npu_runtime.drivers.base import Capabilities, CompileOptions, DeviceInfo, KVBlock
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.program import Program
from vllm_npu_runtime.simulation.datasheet import DATASHEETS, Datasheet
from vllm_npu_runtime.simulation.device import PaperDevice
from vllm_npu_runtime.simulation.executable import SimExecutable
from vllm_npu_runtime.simulation.faults import Call
from vllm_npu_runtime.simulation.limits import check
from vllm_npu_runtime.simulation.options import SimOptions

if TYPE_CHECKING:
    from vllm_npu_runtime.sessions.base import Session, SessionOptions


class SimDriver:
    """One paper NPU per datasheet."""

    name = "sim"

    def __init__(self) -> None:
        self._devices: dict[tuple[str, int], PaperDevice] = {}

    def reset(self) -> None:
        """New devices: empty, with no faults, counting from one. For tests."""
        self._devices.clear()

    def version(self) -> str:
        """The suite's version, and PyTorch's, which computes the values."""
        return f"sim {__version__}, torch {torch.__version__}"

    def devices(self) -> Sequence[DeviceInfo]:
        """All datasheets, with the memory that executables leave free; none is a real NPU."""
        return [self._info(sheet) for sheet in DATASHEETS.values()]

    def capabilities(self, device: str) -> Capabilities:
        """What the datasheet says."""
        return _sheet(device).capabilities

    def fingerprint(self, device: str) -> str:
        """Versions, and a digest of the datasheet."""
        return f"sim-{__version__}-torch-{torch.__version__}-{_sheet(device).fingerprint}"

    def check(self, device: str, dtype: torch.dtype, options: CompileOptions) -> None:
        """See `SimOptions`."""
        SimOptions.of(options.driver)

    def kv_block_bytes(
        self, device: str, block: KVBlock, dtype: torch.dtype, options: Mapping[str, object]
    ) -> int:
        """Keys and values as they are."""
        return block.plain_bytes

    def kv_block_parts(
        self, device: str, block: KVBlock, dtype: torch.dtype, options: Mapping[str, object]
    ) -> tuple[int, ...]:
        """One: keys and values lie side by side."""
        return (block.plain_bytes,)

    def host_threads(self, device: str, options: Mapping[str, object]) -> int | None:
        """None beside PyTorch's own."""
        return None

    def compile(self, program: Program, device: str, options: CompileOptions) -> SimExecutable:
        """See `Driver.compile`; options are in this module's docstring.

        Raises:
            BadShapeError: a dynamic shape, a dtype or a size that isn't on the datasheet.
        """
        settings = SimOptions.of(options.driver)
        paper = self._device(_sheet(device))
        paper.configure(settings)
        paper.check_in(Call.COMPILE, options.timeout)
        check(program, paper.sheet)
        return SimExecutable(program, paper, options.timeout, settings.realtime)

    def save(self, executable: SimExecutable, directory: Path) -> bool:
        """Nothing is compiled, so nothing is worth saving."""
        return False

    def load(
        self, program: Program, device: str, directory: Path, options: CompileOptions
    ) -> SimExecutable:
        """Never called, as `save` says no."""
        raise ConfigurationError("Driver 'sim' saves no executables.")

    def open_session(self, directory: Path, device: str, options: SessionOptions) -> Session:
        """See `OpensSessions.open_session`; each number in `dev_no` is a board of its own."""
        from vllm_npu_runtime.artifact.directory import Artifact
        from vllm_npu_runtime.simulation.session import SimSession

        settings = SimOptions.of(options.driver)
        board = next(iter(options.placement.dev_no), 0)
        paper = self._device(_sheet(device), board)
        paper.configure(settings)
        paper.check_in(Call.OPEN, options.timeout)
        artifact = Artifact.open(directory, verify=False)
        return SimSession(artifact, paper, options, settings.realtime)

    def _device(self, sheet: Datasheet, board: int = 0) -> PaperDevice:
        return self._devices.setdefault((sheet.name, board), PaperDevice(sheet))

    def _info(self, sheet: Datasheet) -> DeviceInfo:
        memory = self._device(sheet).memory
        return DeviceInfo(
            sheet.name, sheet.description, memory.total, memory.free, shares_host_memory=False
        )


def _sheet(device: str) -> Datasheet:
    name = device or next(iter(DATASHEETS))
    if name not in DATASHEETS:
        raise ConfigurationError.unknown(
            "device", f"sim:{device}", [f"sim:{each}" for each in DATASHEETS]
        )
    return DATASHEETS[name]

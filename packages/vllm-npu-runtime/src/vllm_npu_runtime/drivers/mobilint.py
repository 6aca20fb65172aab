"""``mobilint``: models compiled ahead of time to MXQ, on Mobilint's boards.

The vendor's compiler makes the models, so there are sessions only: programs are refused.
Options (`SessionOptions.driver`) are those of `vllm_npu_runtime.mobilint.options`.
It has never run on hardware; see docs/mobilint.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vllm_npu_runtime import __version__
from vllm_npu_runtime.drivers.base import (
    Capabilities,
    CompileOptions,
    DeviceInfo,
    Executable,
    KVBlock,
)
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.mobilint.options import MobilintOptions
from vllm_npu_runtime.mobilint.requirement import require

if TYPE_CHECKING:
    from vllm_npu_runtime.program import Program
    from vllm_npu_runtime.sessions.base import Session, SessionOptions


class MobilintDriver:
    """Whatever boards the vendor's runtime finds."""

    name = "mobilint"

    def version(self) -> str:
        """The runtime's version."""
        return f"qbruntime {require()}"

    def devices(self) -> Sequence[DeviceInfo]:
        """One for each board, named by its number; the runtime doesn't tell memory.

        Raises:
            ConfigurationError: the runtime is missing, or not of a version that fits.
        """
        return [
            DeviceInfo(name, f"Mobilint {kind}", 0, 0, is_npu=True, shares_host_memory=False)
            for name, (kind, _) in _boards().items()
        ]

    def capabilities(self, device: str) -> Capabilities:
        """Sessions, and no programs. The dtype is the embeddings'; the arithmetic was chosen when
        the model was compiled."""
        _board(device)
        return Capabilities(
            dtypes=(torch.float32, torch.bfloat16, torch.float16),
            kv_cache_dtypes=(),
            kv_contracts=(),
            operators=frozenset(),
            stateful=True,
            placement=frozenset({"dev_no", "core_mode", "target_cores", "target_clusters"}),
        )

    def fingerprint(self, device: str) -> str:
        """Versions of the suite and the runtime, and the board's kind."""
        return f"mobilint-{__version__}-{self.version()}-{_board(device)[0]}"

    def check(self, device: str, dtype: torch.dtype, options: CompileOptions) -> None:
        """Unknown options are refused here; programs in `compile`."""
        MobilintOptions.of(options.driver)

    def kv_block_bytes(
        self, device: str, block: KVBlock, dtype: torch.dtype, options: Mapping[str, object]
    ) -> int:
        """Refused: the runtime keeps keys and values to itself."""
        raise _sessions_only("keeps no KV blocks")

    def kv_block_parts(
        self, device: str, block: KVBlock, dtype: torch.dtype, options: Mapping[str, object]
    ) -> tuple[int, ...]:
        """Refused likewise."""
        raise _sessions_only("keeps no KV blocks")

    def host_threads(self, device: str, options: Mapping[str, object]) -> int | None:
        """None beside PyTorch's own."""
        return None

    def compile(self, program: Program, device: str, options: CompileOptions) -> Executable:
        """Refused."""
        raise _sessions_only("compiles no programs")

    def save(self, executable: Executable, directory: Path) -> bool:
        """There is nothing to save."""
        return False

    def load(
        self, program: Program, device: str, directory: Path, options: CompileOptions
    ) -> Executable:
        """Refused."""
        raise _sessions_only("loads no programs")

    def open_session(self, directory: Path, device: str, options: SessionOptions) -> Session:
        """See `OpensSessions.open_session`; the directory is one of Mobilint's models."""
        board = _board(device)
        from vllm_npu_runtime.mobilint.session import MobilintSession

        return MobilintSession(directory, board, options)


def _boards() -> dict[str, tuple[str, int]]:
    """Kind and number of the boards by device name.

    The name is the number; where several kinds are there, which count each for itself, the kind
    stands before it.
    """
    require()
    from vllm_npu_runtime.mobilint.vendor import found

    boards = found()
    several = len({kind for kind, _ in boards}) > 1
    return {
        f"{kind}-{number}" if several else str(number): (kind, number) for kind, number in boards
    }


def _board(device: str) -> tuple[str, int]:
    boards = _boards()
    if not boards:
        raise ConfigurationError(
            "Driver 'mobilint' finds no board. Install the vendor's kernel driver "
            "(docs.mobilint.com) and see that `ls /dev/aries* /dev/regulus*` lists one."
        )
    if not device:
        return next(iter(boards.values()))
    if device not in boards:
        known = [f"mobilint:{name}" for name in boards]
        raise ConfigurationError.unknown("device", f"mobilint:{device}", known)
    return boards[device]


def _sessions_only(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"Driver 'mobilint' {what}: it runs models that Mobilint's compiler made. Serve one of "
        "those (see docs/mobilint.md), or choose another device, as VLLM_NPU_DEVICE=openvino:CPU."
    )

"""``reference``: plain PyTorch on the host, the oracle for every other driver."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from vllm_npu_runtime import __version__
from vllm_npu_runtime.binding import Bound
from vllm_npu_runtime.drivers.base import (
    Capabilities,
    CompileOptions,
    DeviceInfo,
    KVBlock,
    KVContract,
)
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.ops.packing import WEIGHT_FORMATS
from vllm_npu_runtime.program import Program

if TYPE_CHECKING:
    from vllm_npu_runtime.sessions.base import Session, SessionOptions


class ReferenceExecutable:
    """A program run node by node by PyTorch, on the tensors bound to it."""

    memory = 0
    host_operators: tuple[str, ...] = ()

    def __init__(self, program: Program) -> None:
        self.program = program
        self._bound = Bound(program)
        self._forward = program.graph.forward

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `Executable.bind`."""
        self._bound.bind(tensors)

    def run(self) -> Sequence[torch.Tensor]:
        """See `Executable.run`."""
        with torch.inference_mode():
            outputs: Sequence[torch.Tensor] = self._forward(*self._bound.arguments())
        return outputs

    def close(self) -> None:
        """See `Executable.close`."""
        self._bound.clear()


class ReferenceDriver:
    """One device, the host; every operator; both KV contracts."""

    name = "reference"

    def version(self) -> str:
        """PyTorch's version, as PyTorch runs everything."""
        return f"torch {torch.__version__}"

    def devices(self) -> Sequence[DeviceInfo]:
        """The host."""
        memory = psutil.virtual_memory()
        processor = platform.processor() or platform.machine()
        return [DeviceInfo("", f"host ({processor})", memory.total, memory.available)]

    def capabilities(self, device: str) -> Capabilities:
        """All dtypes that PyTorch computes in on the host; every ATen operator."""
        if device:
            raise ConfigurationError.unknown("device", f"reference:{device}", ["reference"])
        dtypes = (torch.float32, torch.bfloat16, torch.float16)
        return Capabilities(
            dtypes=dtypes,
            kv_cache_dtypes=dtypes,
            kv_contracts=(KVContract.PAGED, KVContract.GATHER),
            static_shapes_only=False,
            # It keeps no graph for the next start, so each one is captured in every start.
            bucket_step=4,
            weight_formats=tuple(WEIGHT_FORMATS),
            stateful=True,
            opens_any=True,
        )

    def fingerprint(self, device: str) -> str:
        """The suite's and PyTorch's versions."""
        return f"reference-{__version__}-torch-{torch.__version__}"

    def check(self, device: str, dtype: torch.dtype, options: CompileOptions) -> None:
        """There are no options."""
        if options.driver:
            raise ConfigurationError.unknown(
                "option of driver 'reference'", next(iter(options.driver)), []
            )

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

    def compile(
        self, program: Program, device: str, options: CompileOptions
    ) -> ReferenceExecutable:
        """Nothing to compile: the graph is run as it is."""
        self.check(device, torch.float32, options)
        return ReferenceExecutable(program)

    def save(self, executable: ReferenceExecutable, directory: Path) -> bool:
        """Nothing is compiled, so nothing is worth saving."""
        return False

    def load(
        self, program: Program, device: str, directory: Path, options: CompileOptions
    ) -> ReferenceExecutable:
        """Never called, as `save` says no."""
        raise ConfigurationError("The reference driver saves no executables.")

    def open_session(self, directory: Path, device: str, options: SessionOptions) -> Session:
        """See `OpensSessions.open_session`."""
        from vllm_npu_runtime.artifact.directory import Artifact
        from vllm_npu_runtime.sessions.reference import ReferenceSession

        self.check(device, torch.float32, CompileOptions(driver=options.driver))
        return ReferenceSession(Artifact.open(directory, verify=False), options)

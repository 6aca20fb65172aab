"""What a vendor writes: a `Driver` that compiles programs into `Executable`s.

Both are protocols: a driver needs no base class of ours, only these methods. The conformance
kit (`vllm_npu_runtime.conformance`) checks that they do what this file says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from vllm_npu_runtime.program import Program
    from vllm_npu_runtime.sessions.base import Session, SessionOptions


class KVContract(StrEnum):
    """Who reads and writes the KV cache."""

    PAGED = "paged"
    """The program holds `vllm_npu::paged_attention`: the device writes new keys and values and
    attends over blocks. Prefill and decode mix; a bucket is a number of tokens."""
    GATHER = "gather"
    """The program holds `vllm_npu::gather_attention`: it reads the context from host-visible
    blocks and returns new keys and values, which the host scatters. A bucket is a number of
    decoding requests, or the chunk of one prefilling request."""


@dataclass(frozen=True)
class DeviceInfo:
    """One device that a driver found.

    Attributes:
        name: what stands behind the colon of `<driver>:<device>`, as in "CPU"; "" for the
            driver's only device.
        description: the marketing name, for people.
        total_memory: bytes that the device can address.
        free_memory: bytes of it that are free now.
        is_npu: a real NPU, which `VLLM_NPU_DEVICE=auto` may pick.
        shares_host_memory: its memory is the host's.
    """

    name: str
    description: str
    total_memory: int
    free_memory: int
    is_npu: bool = False
    shares_host_memory: bool = True


@dataclass(frozen=True)
class Capabilities:
    """What a device can do.

    Attributes:
        dtypes: of models that it serves, best first.
        arithmetic: dtypes of models that it computes in another one, and in which, as
            `{bfloat16: float32}`; every other dtype is computed in itself.
        kv_cache_dtypes: KV cache dtypes, best first. A model's own is taken where it is among
            them, else the first, unless the user chooses.
        kv_contracts: contracts that it serves, best first.
        kv_layout: layout of a layer's cache under the paged contract. "NHC": `[blocks, kv_heads,
            block_size, 2 * head_size]`, keys in the first half of the last axis, values in the
            second. "opaque": the driver's own; the cache is uint8 `[blocks, …]`, contiguous, of
            `Driver.kv_block_bytes` a block, and nobody else reads it. The gather contract's is
            always "NHC".
        static_shapes_only: it runs no program with an extent that varies.
        dynamic_tokens: one program for any number of tokens and requests runs there as fast as
            one that was compiled for that number, so that buckets would only cost memory.
        bucket_step: default divisor between buckets. More than 2 where making a graph costs
            more than the padding that it saves.
        soft_cap: its `paged_attention` takes a soft cap.
        operators: operators that it runs, as `aten.mm`; None: every ATen operator and ours.
            What is missing runs on the host, between pieces on the device.
        weight_formats: packed weight formats that its `wna16_linear` computes with, as
            `ops.packing.WEIGHT_FORMATS` names them.
        block_sizes: KV block sizes in tokens; None: any.
        max_batch_size: most requests in one run; None: no limit.
        max_tokens: most tokens in one run; None: no limit.
        stateful: sessions keep KV inside the runtime; the driver is an `OpensSessions`.
        opens_any: its sessions open artifacts that were compiled for other devices.
        placement: fields of `sessions.base.Placement` that its sessions honour.
    """

    dtypes: tuple[torch.dtype, ...]
    kv_cache_dtypes: tuple[torch.dtype, ...]
    kv_contracts: tuple[KVContract, ...]
    kv_layout: str = "NHC"
    static_shapes_only: bool = True
    dynamic_tokens: bool = False
    bucket_step: int = 2
    soft_cap: bool = True
    operators: frozenset[str] | None = None
    weight_formats: tuple[str, ...] = ()
    block_sizes: tuple[int, ...] | None = None
    max_batch_size: int | None = None
    max_tokens: int | None = None
    stateful: bool = False
    opens_any: bool = False
    placement: frozenset[str] = frozenset()
    arithmetic: Mapping[torch.dtype, torch.dtype] = field(default_factory=dict)

    def computes_in(self, dtype: torch.dtype) -> torch.dtype:
        """What a model of a dtype is computed in."""
        return self.arithmetic.get(dtype, dtype)


@dataclass(frozen=True)
class KVBlock:
    """One block of one layer's KV cache.

    Attributes:
        heads: key/value heads.
        head_size: numbers in a key, and in a value.
        tokens: that the block holds.
        dtype: of keys and values; integers are quantized, and bring their scales.
    """

    heads: int
    head_size: int
    tokens: int
    dtype: torch.dtype

    @property
    def plain_bytes(self) -> int:
        """Bytes of keys and values without anything beside them."""
        return 2 * self.heads * self.head_size * self.tokens * self.dtype.itemsize


@dataclass(frozen=True)
class CompileOptions:
    """How to compile.

    Attributes:
        timeout: seconds after which a run counts as stalled; None: never.
        kv_cache_dtype: of an opaque KV cache, as for `Driver.kv_block_bytes`; None: the
            model's, or else the best that goes with it.
        driver: options of one driver, by its own names; it refuses the ones it doesn't know.
    """

    timeout: float | None = None
    kv_cache_dtype: torch.dtype | None = None
    driver: Mapping[str, object] = field(default_factory=dict)


@runtime_checkable
class Executable(Protocol):
    """A program compiled for a device."""

    @property
    def program(self) -> Program:
        """What was compiled."""

    @property
    def memory(self) -> int:
        """Bytes of device memory that it holds, without shared weights and KV."""

    @property
    def host_operators(self) -> tuple[str, ...]:
        """Operators that run on the host, between pieces on the device."""

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Bind inputs by name; they stay bound, and are read anew by every run.

        The executable keeps them alive. Binding some leaves the rest as they were. Weights
        that the program came with are bound already; binding them again makes the executable
        use new values.

        Raises:
            BadShapeError: unknown name, or not the shape and dtype that was compiled.
        """

    def run(self) -> Sequence[torch.Tensor]:
        """Run once on what is bound.

        Returns:
            The outputs in the program's order, valid until the next run.

        Raises:
            BadShapeError: an input isn't bound.
            OutOfMemoryError, DeviceLostError, DeviceTimeoutError: as they say.
        """

    def close(self) -> None:
        """Free what it holds on the device. It can't run any more."""


@runtime_checkable
class Driver(Protocol):
    """The adapter to one vendor's runtime.

    It is made once per process by the entry point's name, without arguments; making it must be
    cheap and must not touch a device. `vllm_npu_runtime.drivers.load` does that.
    """

    name: str

    def version(self) -> str:
        """Version of the vendor's runtime and driver, for people."""

    def devices(self) -> Sequence[DeviceInfo]:
        """The devices that are there now; empty if there are none.

        Asked, like `capabilities` and `check`, in processes that fork others: no thread and no
        open device may be left. `vllm_npu_runtime.asking.in_child` asks a runtime that leaves some.

        Raises:
            ConfigurationError: the runtime is missing or too old; names what to install.
        """

    def capabilities(self, device: str) -> Capabilities:
        """What `device` can do.

        Raises:
            ConfigurationError: there is no such device.
        """

    def fingerprint(self, device: str) -> str:
        """Changes whenever a saved executable stops being valid: driver, compiler and device
        versions. Part of the compile cache's key."""

    def check(self, device: str, dtype: torch.dtype, options: CompileOptions) -> None:
        """Refuse, before a model is loaded, what no program of it could be compiled with.

        Args:
            device: as everywhere.
            dtype: of the model.
            options: as for `compile`.

        Raises:
            ConfigurationError: an option that the driver doesn't know or the device doesn't take.
        """

    def kv_block_bytes(
        self, device: str, block: KVBlock, dtype: torch.dtype, options: Mapping[str, object]
    ) -> int:
        """Bytes that a block of one layer's cache takes under the paged contract.

        Args:
            device: as everywhere.
            block: what it holds.
            dtype: of the model, on which the choice of KV dtypes may depend.
            options: as in `CompileOptions.driver`.

        Raises:
            ConfigurationError: the device can't keep such a cache.
        """

    def kv_block_parts(
        self, device: str, block: KVBlock, dtype: torch.dtype, options: Mapping[str, object]
    ) -> tuple[int, ...]:
        """Bytes of each part of a block, for whoever moves blocks without reading them.

        A layer's memory holds the first part of every block, then the second of every block, and
        so on: a block is contiguous only where it has one part. They add up to `kv_block_bytes`;
        arguments and errors are the same.
        """

    def host_threads(self, device: str, options: Mapping[str, object]) -> int | None:
        """Threads of the host's processor that a run takes, beside PyTorch's; None: none.

        Args:
            device: as everywhere.
            options: as in `CompileOptions.driver`.
        """

    def compile(self, program: Program, device: str, options: CompileOptions) -> Executable:
        """Compile for a device.

        Raises:
            UnsupportedOperatorError: an operator that neither device nor host can run.
            OutOfMemoryError: too little memory on the device.
            ConfigurationError: an option that the driver doesn't know.
        """

    def save(self, executable: Executable, directory: Path) -> bool:
        """Write what a later `load` needs into an empty directory; False if it can't."""

    def load(
        self, program: Program, device: str, directory: Path, options: CompileOptions
    ) -> Executable:
        """The executable that `save` wrote. `program.graph` may be empty: nothing was traced.

        Raises:
            ConfigurationError: the files are not what `save` wrote.
        """


@runtime_checkable
class CompilesAside(Protocol):
    """A driver whose compiler lets Python go on: warm-up captures the next graphs meanwhile, and
    has several compiled at once."""

    def compiles_at_once(self, device: str) -> int:
        """How many graphs are worth compiling at the same time, 1 or more."""

    def begin_compile(
        self, program: Program, device: str, options: CompileOptions
    ) -> Callable[[], Executable]:
        """Begin what `Driver.compile` does. What traces is done when this returns.

        Returns:
            Waits, and gives the executable or raises what `compile` would.
        """

    def begin_load(
        self, program: Program, device: str, directory: Path, options: CompileOptions
    ) -> Callable[[], Executable]:
        """Begin what `Driver.load` does; files that are of no use are an error at once.

        Returns:
            Waits, and gives the executable or raises what `compile` would.
        """


@runtime_checkable
class OpensSessions(Protocol):
    """A driver that opens artifacts, as `Capabilities.stateful` says of a device."""

    def open_session(self, directory: Path, device: str, options: SessionOptions) -> Session:
        """Open an artifact on a device; `vllm_npu_runtime.sessions.opening` calls it.

        Args:
            directory: of the artifact, whose files were checked, and which was compiled for this
                device unless `Capabilities.opens_any`.
            device: as everywhere.
            options: checked against the artifact's limits. `placement.dev_no` names one board
                at most.

        Raises:
            ConfigurationError: an option or a placement that the driver can't honour, or an
                artifact that isn't whole.
            OutOfMemoryError: weights and slots don't fit.
        """

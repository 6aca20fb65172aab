"""Datasheets: what each paper NPU can do, and how fast."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from vllm_npu_runtime.drivers.base import Capabilities, KVContract

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Datasheet:
    """A paper NPU.

    Attributes:
        name: the device's name behind ``sim:``.
        memory: bytes.
        bandwidth: of its memory, bytes per second.
        flops: peak floating-point operations per second by dtype, best dtype first; other
            floating dtypes can't be computed in.
        kv_contracts: see `Capabilities`.
        slots: most executables loaded at once; closing one gives its slot back.
        launch_overhead: seconds that starting a piece of a program takes.
        operators: see `Capabilities`.
        weight_formats: see `Capabilities`.
        max_batch_size: see `Capabilities`.
        max_tokens: see `Capabilities`.
    """

    name: str
    memory: int
    bandwidth: float
    flops: Mapping[torch.dtype, float]
    kv_contracts: tuple[KVContract, ...]
    slots: int
    launch_overhead: float
    operators: frozenset[str] | None = None
    weight_formats: tuple[str, ...] = ("uint4b8", "uint8b128")
    max_batch_size: int | None = None
    max_tokens: int | None = None

    @property
    def description(self) -> str:
        """What stands in the device table."""
        peak = max(self.flops.values())
        return (
            f"paper NPU '{self.name}' ({self.memory // MIB} MiB, {self.bandwidth / 1e9:g} GB/s, "
            f"{peak / 1e12:g} TFLOP/s)"
        )

    @property
    def capabilities(self) -> Capabilities:
        """What the suite asks a driver for."""
        return Capabilities(
            dtypes=tuple(self.flops),
            kv_cache_dtypes=tuple(self.flops),
            kv_contracts=self.kv_contracts,
            static_shapes_only=True,
            operators=self.operators,
            weight_formats=self.weight_formats,
            max_batch_size=self.max_batch_size,
            max_tokens=self.max_tokens,
            stateful=True,
            opens_any=True,
            placement=frozenset({"dev_no"}),
        )

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any figure above."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


_BOTH = (KVContract.PAGED, KVContract.GATHER)

SMALL = Datasheet(
    name="small",
    memory=2 * GIB,
    bandwidth=16e9,
    flops={torch.bfloat16: 1e12, torch.float16: 1e12, torch.float32: 0.25e12},
    kv_contracts=(KVContract.GATHER,),
    slots=64,
    launch_overhead=1e-4,
    max_batch_size=8,
    max_tokens=256,
)
"""An embedded NPU: it only reads the KV cache, and takes small batches."""

LARGE = Datasheet(
    name="large",
    memory=16 * GIB,
    bandwidth=120e9,
    flops={torch.bfloat16: 40e12, torch.float16: 40e12, torch.float32: 5e12},
    kv_contracts=_BOTH,
    slots=256,
    launch_overhead=2e-5,
)
"""An accelerator card with paged attention of its own."""

BASIC = Datasheet(
    name="basic",
    memory=2 * GIB,
    bandwidth=16e9,
    flops={torch.bfloat16: 1e12, torch.float16: 1e12, torch.float32: 0.25e12},
    kv_contracts=_BOTH,
    slots=64,
    launch_overhead=1e-4,
    operators=frozenset(
        f"aten.{name}"
        for name in (
            "mm", "addmm", "bmm", "add", "sub", "mul", "div", "neg", "reciprocal", "rsqrt", "pow",
            "mean", "sum", "sigmoid", "silu", "gelu", "tanh", "relu", "cat", "clone", "_to_copy",
        )
    ),
    weight_formats=(),
)  # fmt: skip
"""Arithmetic only: no attention, softmax, lookup or index, which the host runs in between."""

TINY = Datasheet(
    name="tiny",
    memory=64 * MIB,
    bandwidth=1e9,
    flops={torch.float32: 1e10, torch.bfloat16: 1e10, torch.float16: 1e10},
    kv_contracts=_BOTH,
    slots=16,
    launch_overhead=1e-3,
)
"""For tests that run out of memory or slots."""

DATASHEETS: Mapping[str, Datasheet] = {sheet.name: sheet for sheet in (SMALL, LARGE, BASIC, TINY)}
"""By device name; the first is the driver's default."""

"""Programs for the paper NPU, compiled and bound."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vllm_npu_runtime.capture import Named, capture
from vllm_npu_runtime.drivers.base import CompileOptions
from vllm_npu_runtime.drivers.sim import SimDriver
from vllm_npu_runtime.program import Kind, Program
from vllm_npu_runtime.simulation.executable import SimExecutable


def make(function: Callable[..., torch.Tensor], **tensors: torch.Tensor) -> Program:
    """The program of a function of tensors; ``w`` is a weight and ``kv`` a cache."""
    kinds = {"w": Kind.WEIGHT, "kv": Kind.KV_CACHE}
    named = [Named(k, kinds.get(k, Kind.INPUT), tensor) for k, tensor in tensors.items()]
    return capture("p", lambda: {"out": function(**tensors)}, named)


def load(
    driver: SimDriver,
    program: Program,
    device: str = "tiny",
    timeout: float | None = None,
    **options: object,
) -> SimExecutable:
    """A program compiled and bound, with driver options."""
    executable = driver.compile(program, device, CompileOptions(timeout, driver=options))
    inputs = program.named(Kind.INPUT)
    executable.bind({k: torch.zeros(b.shape, dtype=b.dtype) for k, b in inputs.items()})
    return executable


def free(driver: SimDriver, device: str = "tiny") -> int:
    """Bytes that are left on a device."""
    return next(info.free_memory for info in driver.devices() if info.name == device)

"""Programs for OpenVINO's CPU device, compiled and bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch

from vllm_npu_runtime.capture import Named, capture
from vllm_npu_runtime.drivers.base import CompileOptions, Executable
from vllm_npu_runtime.drivers.openvino import OpenVINODriver
from vllm_npu_runtime.extents import Varying
from vllm_npu_runtime.openvino.devices import precisions
from vllm_npu_runtime.openvino.functional import functional, operator_name_or_none
from vllm_npu_runtime.program import Kind, Program

DRIVER = OpenVINODriver()
HAS_BFLOAT16 = torch.bfloat16 in precisions("CPU")
needs_bfloat16 = pytest.mark.skipif(
    not HAS_BFLOAT16, reason="this processor, or the one that is pretended, has no bfloat16"
)


def make(
    function: Callable[..., torch.Tensor], most: int | None = None, **tensors: torch.Tensor
) -> Program:
    """The program of a function of tensors; ``w`` and ``w_…`` are weights.

    Args:
        function: to capture.
        most: the first dimension of every input but weights varies up to so much.
        **tensors: its arguments.
    """
    varying = {} if most is None else {0: Varying("rows", most)}
    named = [
        Named(name, Kind.WEIGHT, tensor) if name == "w" or name.startswith("w_") else
        Named(name, Kind.INPUT, tensor, varying)
        for name, tensor in tensors.items()
    ]  # fmt: skip
    return capture("p", lambda: {"out": function(**tensors)}, named)


def load(
    program: Program,
    inputs: Mapping[str, torch.Tensor],
    timeout: float | None = None,
    **options: object,
) -> Executable:
    """A program compiled and bound, with driver options."""
    executable = DRIVER.compile(program, "CPU", CompileOptions(timeout, driver=options))
    wanted = program.named(Kind.INPUT)
    executable.bind({name: tensor for name, tensor in inputs.items() if name in wanted})
    return executable


def rewritten(program: Program) -> set[str | None]:
    """The operators of a program's graph as it is handed to OpenVINO's frontend."""
    return {operator_name_or_none(node) for node in functional(program).graph.graph.nodes}


def kinds(executable: Executable) -> list[str]:
    """The types of the operations that OpenVINO has compiled a program into."""
    nodes = executable.compiled.get_runtime_model().get_ordered_ops()
    return [node.get_rt_info()["layerType"].astype(str) for node in nodes]

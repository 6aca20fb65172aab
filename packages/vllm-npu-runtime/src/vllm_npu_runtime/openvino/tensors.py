"""Tensors between PyTorch and OpenVINO, without copies."""

from __future__ import annotations

from typing import Any

import openvino as ov
import torch

from vllm_npu_runtime.errors import BadShapeError

# numpy has no bfloat16, so its bits travel under a type of the same width.
TYPES: dict[torch.dtype, tuple[ov.Type, torch.dtype]] = {
    torch.float32: (ov.Type.f32, torch.float32),
    torch.float16: (ov.Type.f16, torch.float16),
    torch.bfloat16: (ov.Type.bf16, torch.float16),
    torch.float64: (ov.Type.f64, torch.float64),
    torch.int8: (ov.Type.i8, torch.int8),
    torch.int16: (ov.Type.i16, torch.int16),
    torch.int32: (ov.Type.i32, torch.int32),
    torch.int64: (ov.Type.i64, torch.int64),
    torch.uint8: (ov.Type.u8, torch.uint8),
    torch.bool: (ov.Type.boolean, torch.bool),
}


class Shared:
    """A torch tensor as OpenVINO sees it.

    `ov.Tensor` doesn't keep alive what it looks at, so this holds both: let go of it only after
    the request that reads it.
    """

    __slots__ = ("ov", "torch")

    def __init__(self, tensor: torch.Tensor) -> None:
        """Share `tensor`, which must be contiguous.

        Raises:
            BadShapeError: it isn't, or OpenVINO has no such dtype.
        """
        if tensor.dtype not in TYPES:
            raise BadShapeError(f"OpenVINO takes no tensor of {tensor.dtype}.")
        if not tensor.is_contiguous():
            raise BadShapeError(
                f"A tensor of shape {list(tensor.shape)} and strides {list(tensor.stride())} "
                "can't be shared with OpenVINO: it must be contiguous."
            )
        kind, carrier = TYPES[tensor.dtype]
        self.torch = tensor
        array = tensor.detach().view(carrier).numpy()
        self.ov = ov.Tensor(array, ov.Shape(list(tensor.shape)), kind)


def raw(memory: torch.Tensor, shape: list[int], kind: ov.Type) -> ov.Tensor:
    """Bytes as a tensor of any of OpenVINO's types. The caller keeps `memory` alive.

    Args:
        memory: uint8, contiguous, at least as large.
        shape: of the result.
        kind: its element type.
    """
    return ov.Tensor(memory.numpy(), ov.Shape(shape), kind)


def to_torch(tensor: ov.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A view of OpenVINO's memory, which lives as long as the request does."""
    array: Any = tensor.data
    return torch.from_numpy(array).view(dtype)

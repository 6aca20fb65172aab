"""How a matrix is kept in the weights file and in a graph: as it is, or in 8 or 4 bits.

Integers are unsigned around a middle, the form that OpenVINO multiplies without unpacking the
matrix first; zero is exact, so the quantization is symmetric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.export.tensor_file import Slot

if TYPE_CHECKING:
    import openvino as ov
    import torch

GROUP_SIZES = (128, 64, 32)
PACKED, SCALE = "_packed", "_scale"


@dataclass(frozen=True)
class Constant:
    """A weight in a graph: a parameter until its place in the weights file is known.

    Attributes:
        value: float32, of the weight's own shape.
        parameters: stand for tensors of the weights file, by the tensors' names.
        widening: conversions from a shorter floating-point type.
    """

    value: ov.Output
    parameters: Mapping[str, ov.Node]
    widening: tuple[ov.Node, ...] = ()


class WeightFormat(Protocol):
    """A way to keep a weight."""

    def slots(self, name: str, shape: tuple[int, ...]) -> list[Slot]:
        """Tensors of the file that hold it.

        Raises:
            ConfigurationError: the format doesn't fit the shape.
        """

    def pack(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors of `slots`.

        Raises:
            ConfigurationError: a number doesn't fit the format.
        """

    def constant(self, name: str, shape: tuple[int, ...]) -> Constant:
        """The weight in a graph."""

    def unpack(self, name: str, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """The weight, of the tensors that `read` gives by name."""


@dataclass(frozen=True)
class Plain:
    """Floating-point numbers.

    Attributes:
        dtype: by torch's name, as "bfloat16".
    """

    dtype: str

    def slots(self, name: str, shape: tuple[int, ...]) -> list[Slot]:
        return [Slot(name, self.dtype, shape)]

    def pack(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        import torch

        cast = weight.to(getattr(torch, self.dtype))
        if self.dtype == "float16" and not torch.isfinite(cast).all():
            raise ConfigurationError(
                f"{name} has numbers that float16 can't hold. Choose --dtype bfloat16 or float32, "
                "and --weights to go with it."
            )
        return {name: cast}

    def constant(self, name: str, shape: tuple[int, ...]) -> Constant:
        import openvino.opset15 as ops

        kind = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[self.dtype]
        stored = _stored(name, shape, kind)
        if kind == "f32":
            return Constant(stored.output(0), {name: stored})
        wide = ops.convert(stored, "f32")
        return Constant(wide.output(0), {name: stored}, (wide,))

    def unpack(self, name: str, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        return read(name)


@dataclass(frozen=True)
class Int8:
    """8 bits, one scale for each row of the matrix, that is for each output."""

    def slots(self, name: str, shape: tuple[int, ...]) -> list[Slot]:
        rows, _ = shape
        return [Slot(name + PACKED, "uint8", shape), Slot(name + SCALE, "float32", (rows, 1))]

    def pack(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        import torch

        weight = _finite(name, weight)
        scale = _nonzero(weight.abs().amax(1, keepdim=True) / 127)
        packed = (weight / scale).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
        return {name + PACKED: packed, name + SCALE: scale}

    def constant(self, name: str, shape: tuple[int, ...]) -> Constant:
        packed = _stored(name + PACKED, shape, "u8")
        scale = _stored(name + SCALE, (shape[0], 1), "f32")
        return Constant(
            _decompressed(packed, scale, "u8", 128).output(0),
            {name + PACKED: packed, name + SCALE: scale},
        )

    def unpack(self, name: str, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        return read(name + PACKED).float().sub_(128).mul_(read(name + SCALE))


@dataclass(frozen=True)
class Int4:
    """4 bits, one scale for each 128 (or 64, or 32) numbers of a row."""

    def slots(self, name: str, shape: tuple[int, ...]) -> list[Slot]:
        rows, columns = shape
        groups = columns // self.group_size(name, columns)
        return [
            Slot(name + PACKED, "uint8", (rows, columns // 2)),
            Slot(name + SCALE, "float32", (rows, groups, 1)),
        ]

    def group_size(self, name: str, columns: int) -> int:
        """Numbers of a row that share a scale."""
        for size in GROUP_SIZES:
            if columns % size == 0:
                return size
        raise ConfigurationError(
            f"--weights int4 doesn't fit {name}: its {columns} inputs are no multiple of "
            f"{GROUP_SIZES[-1]}. Choose --weights int8."
        )

    def pack(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        import torch

        rows, columns = weight.shape
        grouped = _finite(name, weight).view(rows, -1, self.group_size(name, columns))
        # The number farthest from zero becomes -8, whatever its sign: all 16 values are used.
        farthest = grouped.gather(2, grouped.abs().argmax(2, keepdim=True))
        scale = _nonzero(farthest / -8)
        levels = (grouped / scale).round_().clamp_(-8, 7).add_(8).to(torch.uint8)
        levels = levels.view(rows, columns)
        packed = levels[:, ::2] | levels[:, 1::2] << 4
        return {name + PACKED: packed, name + SCALE: scale}

    def constant(self, name: str, shape: tuple[int, ...]) -> Constant:
        import openvino.opset15 as ops

        rows, columns = shape
        size = self.group_size(name, columns)
        packed = _stored(name + PACKED, (rows, columns // size, size), "u4")
        scale = _stored(name + SCALE, (rows, columns // size, 1), "f32")
        whole = ops.reshape(_decompressed(packed, scale, "u4", 8), [rows, columns], False)
        return Constant(whole.output(0), {name + PACKED: packed, name + SCALE: scale})

    def unpack(self, name: str, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        import torch

        packed, scale = read(name + PACKED), read(name + SCALE)
        levels = torch.stack((packed & 15, packed >> 4), dim=2).view(*scale.shape[:2], -1)
        return levels.float().sub_(8).mul_(scale).view(len(packed), -1)


_FLOATS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
AS_DTYPE = {dtype: weights for weights, dtype in _FLOATS.items()}
"""The `--weights` that goes with a dtype."""
FORMATS = (*_FLOATS, "int8", "int4")


def matrices(weights: str) -> WeightFormat:
    """The format of the layers' matrices.

    Raises:
        ConfigurationError: no such format.
    """
    if weights in _FLOATS:
        return Plain(_FLOATS[weights])
    if weights not in FORMATS:
        raise ConfigurationError.unknown("weight format", weights, FORMATS)
    return Int8() if weights == "int8" else Int4()


def embeddings(weights: str, dtype: str) -> WeightFormat:
    """The format of token embeddings and the LM head, which stay floating-point.

    Args:
        weights: as for `matrices`.
        dtype: of the model.
    """
    return Plain(_FLOATS.get(weights, dtype))


def vectors() -> WeightFormat:
    """The format of norms and biases: so small that graphs take them as they compute, and exact."""
    return Plain("float32")


def _stored(name: str, shape: tuple[int, ...], kind: str) -> ov.Node:
    import openvino as ov
    import openvino.opset15 as ops

    node = ops.parameter(ov.PartialShape(list(shape)), _type(kind), name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def _decompressed(packed: ov.Node, scale: ov.Node, kind: str, zero: int) -> Any:
    import numpy as np
    import openvino.opset15 as ops

    # The zero point is a number of the weight's own type, as the plugin's pattern wants it.
    middle = ops.convert(ops.constant(np.array(zero), dtype=_type(kind)), "f32")
    return ops.multiply(ops.subtract(ops.convert(packed, "f32"), middle), scale)


def _type(kind: str) -> Any:
    import openvino as ov

    return getattr(ov.Type, kind)


def _finite(name: str, weight: torch.Tensor) -> torch.Tensor:
    import torch

    weight = weight.float()
    if not torch.isfinite(weight).all():
        raise ConfigurationError(
            f"{name} holds infinities or NaN, which can't be quantized. Choose --weights bf16."
        )
    return weight


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    """Scales, 1 for rows of zeros."""
    return scale.where(scale != 0, scale.new_ones(()))

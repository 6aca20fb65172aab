"""The CPU plugin's paged cache: how large its blocks are, and where keys and values lie.

vLLM gives a layer one piece of memory for all blocks. Its first part holds every block's keys,
the rest every block's values, each in the layout that the compiled model's ports show.
"""

from __future__ import annotations

from dataclasses import dataclass

import openvino as ov
import openvino.opset15 as ops
import torch

from vllm_npu_runtime.drivers.base import KVBlock
from vllm_npu_runtime.errors import BadShapeError
from vllm_npu_runtime.openvino.attention import paged_attention
from vllm_npu_runtime.openvino.functional import KEYS, VALUES
from vllm_npu_runtime.openvino.tensors import raw


@dataclass(frozen=True)
class Caches:
    """A layer's keys and values as OpenVINO sees them, and the memory that both look at."""

    memory: torch.Tensor
    keys: ov.Tensor
    values: ov.Tensor


def block_bytes(port: ov.ConstOutput) -> int:
    """Bytes of one block of a cache port, of shape `[blocks, …]`."""
    extents = [each.get_length() for each in list(port.get_partial_shape())[1:]]
    count = 1
    for extent in extents:
        count *= extent
    return -(-count * port.get_element_type().bitwidth // 8)


def cache_bytes(keys: ov.ConstOutput, values: ov.ConstOutput) -> int:
    """Bytes of one block of both."""
    return block_bytes(keys) + block_bytes(values)


def split(memory: torch.Tensor, keys: ov.ConstOutput, values: ov.ConstOutput) -> Caches:
    """A layer's memory as two caches.

    Args:
        memory: uint8 `[blocks, …]`.
        keys: port of the key cache.
        values: port of the value cache.

    Raises:
        BadShapeError: blocks of another size, or memory that isn't contiguous.
    """
    blocks = memory.shape[0]
    needed = cache_bytes(keys, values)
    if not memory.is_contiguous() or memory.dtype != torch.uint8:
        raise BadShapeError(
            f"A KV cache of {memory.dtype} and strides {list(memory.stride())}: it must be "
            "contiguous uint8."
        )
    if memory.nbytes < blocks * needed:
        raise BadShapeError(
            f"A KV cache of {memory.nbytes // max(blocks, 1)} bytes a block; OpenVINO needs "
            f"{needed}."
        )
    flat = memory.view(-1)
    boundary = blocks * block_bytes(keys)
    return Caches(
        memory,
        raw(flat[:boundary], _shape(keys, blocks), keys.get_element_type()),
        raw(flat[boundary:], _shape(values, blocks), values.get_element_type()),
    )


def _shape(port: ov.ConstOutput, blocks: int) -> list[int]:
    return [blocks, *(each.get_length() for each in list(port.get_partial_shape())[1:])]


def probe(block: KVBlock) -> ov.Model:
    """The smallest model with such a cache; compiled, its ports tell the cache's layout."""
    shapes: dict[str, tuple[list[int], ov.Type]] = {
        "query": ([-1, block.heads, block.head_size], ov.Type.f32),
        "key": ([-1, block.heads, block.head_size], ov.Type.f32),
        "value": ([-1, block.heads, block.head_size], ov.Type.f32),
        KEYS: ([-1, -1, -1, -1], ov.Type.dynamic),
        VALUES: ([-1, -1, -1, -1], ov.Type.dynamic),
        "block_table": ([-1, 1], ov.Type.i32),
        "query_start_loc": ([-1], ov.Type.i32),
        "seq_lens": ([-1], ov.Type.i32),
    }
    parameters = []
    for name, (shape, kind) in shapes.items():
        parameter = ops.parameter(ov.PartialShape(shape), kind, name)
        parameter.get_output_tensor(0).set_names({name})
        parameters.append(parameter)
    operands = [parameter.output(0) for parameter in parameters]
    return ov.Model([paged_attention(operands, 1.0, 0)], parameters)

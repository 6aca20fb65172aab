"""What a program costs by a datasheet: time, operations, bytes moved, memory for activations.

Time is the roofline's (Williams, Waterman, Patterson: "Roofline", CACM 52(4), 2009): the longer
of moving the bytes and doing the arithmetic, plus what starting costs. It is the time of a full
bucket: no row is padding, and every block of the block table is read.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from vllm_npu_runtime.placement import is_anchor, is_mutable, is_view
from vllm_npu_runtime.program import Kind, Program
from vllm_npu_runtime.simulation.datasheet import Datasheet


@dataclass(frozen=True)
class Estimate:
    """What one run costs.

    Attributes:
        flops: floating-point operations, a multiply-add being two.
        bytes_moved: bytes of weights, of KV, and of inputs and outputs; each weight is read
            once, and what lies between two operators stays on the chip.
        compute_seconds: for the arithmetic at peak.
        transfer_seconds: for the bytes at full bandwidth.
        launch_seconds: for starting.
    """

    flops: int
    bytes_moved: int
    compute_seconds: float
    transfer_seconds: float
    launch_seconds: float

    @property
    def seconds(self) -> float:
        """Per run."""
        return max(self.compute_seconds, self.transfer_seconds) + self.launch_seconds


def estimate(program: Program, sheet: Datasheet, launches: int = 1) -> Estimate:
    """What a run of `program` costs.

    Args:
        program: what runs; pieces that the host runs count as if the device did.
        sheet: the device.
        launches: pieces that the device starts.
    """
    flops = count_flops(program)
    moved = count_bytes(program)
    peak = _peak(program, sheet)
    return Estimate(
        flops, moved, flops / peak, moved / sheet.bandwidth, launches * sheet.launch_overhead
    )


def count_flops(program: Program) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""
    operators = torch.ops.vllm_npu
    formulas = {
        operators.paged_attention: _paged_attention_flops,
        operators.gather_attention: _gather_attention_flops,
        operators.encoder_attention: _encoder_attention_flops,
        operators.wna16_linear: _wna16_linear_flops,
    }
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    shapes = [[1 if extent is None else extent for extent in each.shape] for each in program.inputs]
    dtypes = [each.dtype for each in program.inputs]
    with FakeTensorMode(allow_non_fake_inputs=True), counter:
        program.graph(*map(_empty, shapes, dtypes))
    return counter.get_total_flops()


def _empty(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def count_bytes(program: Program) -> int:
    """Bytes that cross the device's memory interface in one run."""
    moved = sum(each.nbytes for each in program.outputs)
    placeholders = program.graph.graph.find_nodes(op="placeholder")
    for node, binding in zip(placeholders, program.inputs, strict=True):
        if binding.kind is not Kind.KV_CACHE:
            moved += binding.nbytes
        else:
            moved += _cache_bytes(binding.nbytes, node)
    return moved


def peak_activations(program: Program) -> int:
    """Most bytes of intermediate tensors and outputs that live at one time.

    A tensor lives from the operator that makes it to the last that reads it or a view of it.
    """
    order = list(program.graph.graph.nodes)
    last_use: dict[torch.fx.Node, int] = {}
    for position in range(len(order) - 1, -1, -1):
        node = order[position]
        until = last_use.get(node, position)
        for operand in node.all_input_nodes:
            end = until if is_view(node) else position
            last_use[operand] = max(last_use.get(operand, 0), end)
    freed: Counter[int] = Counter()
    live = peak = 0
    for position, node in enumerate(order):
        if is_anchor(node):
            size = _nbytes(node.meta.get("val"))
            freed[last_use.get(node, position)] += size
            live += size
            peak = max(peak, live)
        live -= freed[position]
    return peak


def _cache_bytes(cache: int, node: torch.fx.Node) -> int:
    """Bytes that are read of a KV cache of `cache` bytes, which `node` is or is a view of."""
    read = 0
    for user in node.users:
        schema = getattr(user.target, "_schema", None)
        names = [argument.name for argument in schema.arguments] if schema else []
        if "block_table" in names:
            # Attention reads the blocks that the block table can name.
            table = user.args[names.index("block_table")].meta["val"]
            blocks = node.meta["val"].shape[0]
            read += min(table.numel(), blocks) * (cache // blocks)
        elif is_view(user) or is_mutable(user):
            read += _cache_bytes(cache, user)
        elif user.op != "output":
            read += _nbytes(user.meta.get("val"))
    return read


def _nbytes(value: object) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.dtype.itemsize
    if isinstance(value, list | tuple):
        return sum(map(_nbytes, value))
    return 0


def _peak(program: Program, sheet: Datasheet) -> float:
    """FLOP/s in the dtype that products are made of: most bytes of weights, else of inputs."""
    for kind in (Kind.WEIGHT, Kind.INPUT):
        sizes: Counter[torch.dtype] = Counter()
        for binding in program.named(kind).values():
            if binding.dtype in sheet.flops:
                sizes[binding.dtype] += binding.nbytes
        if sizes:
            return sheet.flops[sizes.most_common(1)[0][0]]
    return max(sheet.flops.values())


# Two products, of queries with keys and of weights with values, each of 2 * D operations for a
# query head and a key. Shapes stand for the tensors.
def _attention_flops(query: torch.Size, keys: int) -> int:
    tokens, heads, size = query
    return 4 * tokens * heads * size * keys


def _paged_attention_flops(query, key, value, kv_cache, block_table, *_, **__) -> int:  # type: ignore[no-untyped-def]
    return _attention_flops(query, block_table[1] * kv_cache[2])


def _gather_attention_flops(query, key, value, kv_cache, block_table, *_, **__) -> int:  # type: ignore[no-untyped-def]
    new = query[0] // block_table[0]
    return _attention_flops(query, block_table[1] * kv_cache[2] + new)


def _encoder_attention_flops(query, key, *_, **__) -> int:  # type: ignore[no-untyped-def]
    return _attention_flops(query, key[0])


def _wna16_linear_flops(x, weight, *_, **__) -> int:  # type: ignore[no-untyped-def]
    *rows, inputs = x
    return 2 * math.prod(rows) * inputs * weight[0]

"""OpenVINO's PagedAttention in place of ``vllm_npu::paged_attention``.

OpenVINO keeps keys and values in two caches of its own layout, and finds the slots of new tokens
from the lengths of what came before; a slot mapping it doesn't take.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import torch
from openvino.op import _PagedAttentionExtension

BLOCK_SIZE = 32
"""Tokens in a block of the CPU plugin's paged cache."""

OPERATOR = "vllm_npu_openvino.paged_attention.default"

torch.library.define(
    "vllm_npu_openvino::paged_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor key_cache, Tensor value_cache, "
    "Tensor block_table, Tensor query_start_loc, Tensor seq_lens, float scale, "
    "int sliding_window) -> Tensor",
)


@torch.library.register_fake("vllm_npu_openvino::paged_attention")
def _(query: torch.Tensor, *_operands: object) -> torch.Tensor:
    return query.new_empty(query.shape)


def translate(context: ov.frontend.NodeContext) -> list[ov.Output]:
    """The operator in OpenVINO's terms; a conversion extension of its PyTorch frontend.

    Operands are those of `vllm_npu_runtime.ops.paged_attention`, with the cache in two.
    """
    operands = [context.get_input(index) for index in range(8)]
    scale = context.get_values_from_const_input(8)
    window = context.get_values_from_const_input(9)
    return [paged_attention(operands, scale, window).output(0)]


def paged_attention(operands: Sequence[ov.Output], scale: float, window: int) -> ov.Node:
    """The operator as a node, from its tensor operands."""
    query, key, value, key_cache, value_cache, block_table, starts, seq_lens = operands
    caches = [_opaque(key_cache), _opaque(value_cache)]
    heads, size = (query.partial_shape[axis].get_length() for axis in (1, 2))
    kv_heads = key.partial_shape[1].get_length()
    rows = _Rows(query, block_table, starts, seq_lens)
    attention = _PagedAttentionExtension(
        [
            _flat(query, heads * size),
            _flat(key, kv_heads * size),
            _flat(value, kv_heads * size),
            *caches,
            rows.past.output(0),
            rows.starts.output(0),
            rows.blocks.output(0),
            rows.first_blocks.output(0),
            _floats(scale).output(0),
            _ints(window).output(0),
            _floats([]).output(0),  # ALiBi slopes
            ops.reduce_max(rows.seq_lens, _longs([0]), False).output(0),
            *(each.output(0) for each in _unused()),
        ]
    )
    attention.set_friendly_name(f"{attention.get_name()}:{kv_heads}:{size}")
    _describe(attention)
    return ops.reshape(attention.output(0), _longs([-1, heads, size]), False)


def restore(model: ov.Model) -> None:
    """Tell the attention of a model that was read from a file what no file keeps."""
    for node in model.get_ops():
        if node.get_type_name() == "PagedAttentionExtension":
            _describe(node)


def _describe(attention: ov.Node) -> None:
    """Tell the plugin heads and their size, which stand in the name."""
    kv_heads, size = map(int, attention.get_friendly_name().split(":")[-2:])
    # A rotation or eviction of blocks would need more; this is what the CPU plugin reads.
    for name, number in {
        "k_head_size": size,
        "v_head_size": size,
        "num_k_heads": kv_heads,
        "num_v_heads": kv_heads,
    }.items():
        attention.get_rt_info()[name] = number


class _Rows:
    """The requests of a step, and one more that owns the padding.

    The plugin reads out of bounds when tokens belong to no request. This one has no context and
    all its tokens in block 0, which no request reads; without padding it is empty.

    Attributes:
        starts: int32 `[R + 2]`: where each begins among the tokens.
        seq_lens: int32 `[R + 1]`: tokens after this step.
        past: int32 `[R + 1]`: tokens before it.
        blocks: int32 `[R * M + P]`: every request's row of the block table, then block 0 as often
            as padding could need it.
        first_blocks: int32 `[R + 2]`: where each row begins among `blocks`.
    """

    def __init__(
        self, query: ov.Output, block_table: ov.Output, starts: ov.Output, seq_lens: ov.Output
    ) -> None:
        tokens = _slice(ops.shape_of(query, output_type="i32"), 0, 1)
        width = block_table.partial_shape[1].get_length()
        padding = ops.subtract(tokens, _slice(starts, -1, _END))
        self.starts = ops.concat([starts, tokens], 0)
        new = ops.subtract(_slice(self.starts, 1, _END), _slice(self.starts, 0, -1))
        self.seq_lens = ops.concat([seq_lens, padding], 0)
        self.past = ops.subtract(self.seq_lens, new)
        table = ops.reshape(block_table, _longs([-1]), False)
        extra = ops.add(ops.divide(tokens, _ints([BLOCK_SIZE])), _ints([1]))
        self.blocks = ops.concat([table, ops.broadcast(_ints(0), extra)], 0)
        requests = ops.squeeze(ops.shape_of(starts, output_type="i32"), _ints([0]))
        firsts = ops.multiply(ops.range(_ints(0), requests, _ints(1), "i32"), _ints(width))
        end = ops.shape_of(self.blocks, output_type="i32")
        self.first_blocks = ops.concat([firsts, end], 0)


_END = np.iinfo(np.int32).max


def _opaque(cache: ov.Output) -> ov.Output:
    """A cache parameter whose type and layout the plugin chooses when it compiles."""
    parameter = cache.get_node()
    parameter.set_partial_shape(ov.PartialShape([-1, -1, -1, -1]))
    parameter.set_element_type(ov.Type.dynamic)
    parameter.validate_and_infer_types()
    return cache


def _flat(tensor: ov.Output, width: int) -> ov.Output:
    """`[T, heads, size]` as `[T, width]`."""
    return ops.reshape(tensor, _longs([-1, width]), False).output(0)


def _slice(tensor: ov.Output, begin: int, end: int) -> ov.Node:
    return ops.slice(tensor, _ints([begin]), _ints([end]), _ints([1]))


def _unused() -> list[ov.Node]:
    """Operands 13 to 27, of features that nobody here uses, in their neutral form."""
    ints, floats, zero = _ints([]), _floats([]), _ints(0)
    nothing = ops.constant(np.zeros((0, 0, 0, 0), np.float32))
    marks = ops.constant(np.zeros((0,), np.uint8))
    return [
        *(ints, ints, ints, floats, floats, zero, zero, nothing, zero),
        *(ints, ints, ints, ints, marks, ints),
    ]


def _ints(values: object) -> ov.Node:
    return ops.constant(np.array(values, dtype=np.int32))


def _longs(values: object) -> ov.Node:
    return ops.constant(np.array(values, dtype=np.int64))


def _floats(values: object) -> ov.Node:
    return ops.constant(np.array(values, dtype=np.float32))

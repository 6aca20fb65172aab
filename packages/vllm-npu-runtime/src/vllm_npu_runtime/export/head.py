"""The LM head as a graph: hidden states to logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov

    from vllm_npu_runtime.export.weight_formats import Constant

INPUT, OUTPUT = "hidden", "logits"
WEIGHT = "lm_head.weight"


def convert(constant: Constant, hidden_size: int, scaling: float) -> ov.Model:
    """The graph.

    Args:
        constant: the matrix, `[vocab_size, hidden_size]`.
        hidden_size: numbers in a hidden state.
        scaling: what logits are multiplied by.
    """
    import openvino as ov
    import openvino.opset15 as ops

    hidden = ops.parameter(ov.PartialShape([-1, hidden_size]), ov.Type.f32, name=INPUT)
    hidden.output(0).get_tensor().set_names({INPUT})
    logits = ops.matmul(hidden, constant.value, False, True)
    if scaling != 1:
        logits = ops.multiply(logits, ops.constant(scaling, dtype="float32"))
    result = ops.result(logits)
    result.output(0).get_tensor().set_names({OUTPUT})
    return ov.Model([result], [hidden, *constant.parameters.values()], "lm_head")

"""Angles of sines and cosines stay in float32, whatever the arithmetic is.

OpenVINO computes a whole model in the precision hint's type, also what the program has in
float32. An angle grows with a token's position: in bfloat16 that of position 5000 would be off
by several turns of a rotary embedding's fastest pair.
"""

from __future__ import annotations

import openvino as ov
import openvino.opset15 as ops


def angles(model: ov.Model) -> list[ov.Node]:
    """Sines, cosines, and every float32 node that their arguments come from.

    Nodes that can't carry a mark are replaced in the model by others that can.
    """
    found: dict[str, ov.Node] = {}
    waiting = [node for node in model.get_ops() if node.get_type_name() in ("Sin", "Cos")]
    while waiting:
        node = waiting.pop()
        computes = node.get_type_name() not in ("Parameter", "Constant")
        if computes and node.get_output_element_type(0) == ov.Type.f32:
            if node.get_name() not in found:
                waiting += [operand.get_node() for operand in node.input_values()]
            found[node.get_name()] = node
    return [_unsqueezed(node) for node in found.values()]


def _unsqueezed(node: ov.Node) -> ov.Node:
    """The node, with a reshape in place of an unsqueeze: of that the CPU plugin drops the mark."""
    shape = node.get_output_partial_shape(0)
    if node.get_type_name() != "Unsqueeze" or shape.rank.is_dynamic:
        return node
    extents = [each.get_length() if each.is_static else -1 for each in shape]
    if extents.count(-1) > 1:
        return node
    reshape = ops.reshape(node.input_value(0), extents, False)
    for user in list(node.output(0).get_target_inputs()):
        user.replace_source_output(reshape.output(0))
    return reshape

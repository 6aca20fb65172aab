"""A bfloat16 or float16 model as a float32 one around weights of that dtype.

OpenVINO's plugins choose the arithmetic's type themselves, from the precision hint. Given a model
in float32 with small weights, they fuse more and copy weights less than given one that is in that
type throughout; and what they compute is the same.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
import openvino.opset15 as ops

SMALL = (ov.Type.bf16, ov.Type.f16)


def in_float32(model: ov.Model) -> list[ov.Node]:
    """Change the types in a model in place; those of its parameters and results stay.

    Args:
        model: with weights as parameters.

    Returns:
        Conversions of whole parameters to float32.
    """
    if not any(node.get_element_type() in SMALL for node in model.get_parameters()):
        return []
    types = [output.get_element_type() for output in model.outputs]
    wide = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Parameter" and node.get_element_type() in SMALL:
            wide += _convert_after(node)
        elif kind == "Constant" and node.get_element_type() in SMALL:
            _replace(node, ops.constant(node.get_data(dtype=np.float32)))
        elif kind == "Convert" and node.get_output_element_type(0) in SMALL:
            _replace(node, ops.convert(node.input_value(0), "f32"))
    for result, kind in zip(model.get_results(), types, strict=True):
        if kind in SMALL:
            source = result.input_value(0)
            back = ops.convert(source, kind.get_type_name())
            back.output(0).get_tensor().set_names(source.get_tensor().get_names())
            result.input(0).replace_source_output(back.output(0))
    model.validate_nodes_and_infer_types()
    return wide


def _convert_after(parameter: ov.Node) -> list[ov.Node]:
    """Let users of a parameter see float32; of rows that are gathered, only those are converted."""
    rest = []
    for user in list(parameter.output(0).get_target_inputs()):
        node = user.get_node()
        if node.get_type_name() == "Gather" and user.get_index() == 0:
            following = list(node.output(0).get_target_inputs())
            converted = ops.convert(node.output(0), "f32")
            _take_names(node, converted)
            for each in following:
                each.replace_source_output(converted.output(0))
        else:
            rest.append(user)
    if not rest:
        return []
    whole = ops.convert(parameter.output(0), "f32")
    for each in rest:
        each.replace_source_output(whole.output(0))
    return [whole]


def _take_names(old: ov.Node, new: ov.Node) -> None:
    new.output(0).get_tensor().set_names(old.output(0).get_tensor().get_names())


def _replace(old: ov.Node, new: ov.Node) -> None:
    _take_names(old, new)
    for user in list(old.output(0).get_target_inputs()):
        user.replace_source_output(new.output(0))

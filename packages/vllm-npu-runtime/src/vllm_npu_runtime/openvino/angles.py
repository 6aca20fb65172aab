"""Angles of sines and cosines stay in float32, whatever the arithmetic is.

OpenVINO computes a whole model in the precision hint's type, also what the program has in
float32. An angle grows with a token's position: in bfloat16 that of position 5000 would be off
by several turns of a rotary embedding's fastest pair.

OpenVINO has a mark for nodes that keep their type. Python can't set it, but it can be written
into a model's XML.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import openvino as ov
import openvino.opset15 as ops

from vllm_npu_runtime.openvino.attention import restore

_MARK = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:dynamic"}
_NAME = "vllm_npu_angle:"


def keep_angles(model: ov.Model, core: ov.Core) -> ov.Model:
    """The model with its angles marked; the same model if it has none.

    Args:
        model: may be changed.
        core: reads the marked one.
    """
    chain = _chain(model)
    if not chain:
        return model
    for number, node in enumerate(map(_unsqueezed, chain)):
        node.set_friendly_name(f"{_NAME}{number}")
    with TemporaryDirectory(prefix="vllm-npu-") as directory:
        path = Path(directory) / "model.xml"
        ov.serialize(model, path)
        tree = ElementTree.parse(path)
        for layer in tree.iterfind("layers/layer"):
            if str(layer.get("name")).startswith(_NAME):
                _mark(layer)
        tree.write(path)
        marked = core.read_model(path)
    restore(marked)
    return marked


def _chain(model: ov.Model) -> list[ov.Node]:
    """Sines, cosines, and every float32 node that their arguments come from."""
    found: dict[str, ov.Node] = {}
    waiting = [node for node in model.get_ops() if node.get_type_name() in ("Sin", "Cos")]
    while waiting:
        node = waiting.pop()
        computes = node.get_type_name() not in ("Parameter", "Constant")
        if computes and node.get_output_element_type(0) == ov.Type.f32:
            if node.get_name() not in found:
                waiting += [operand.get_node() for operand in node.input_values()]
            found[node.get_name()] = node
    return list(found.values())


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


def _mark(layer: ElementTree.Element) -> None:
    info = layer.find("rt_info")
    if info is None:
        info = ElementTree.Element("rt_info")
        layer.insert(0 if layer.find("data") is None else 1, info)
    ElementTree.SubElement(info, "attribute", _MARK)

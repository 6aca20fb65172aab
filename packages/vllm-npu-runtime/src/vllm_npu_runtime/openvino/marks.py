"""Marks that OpenVINO's plugins read from nodes.

Python can't set them on a node, but they can be written into a model's XML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import openvino as ov

from vllm_npu_runtime.openvino.attention import restore


class Mark(Enum):
    """What a mark says of its node; the value names it in OpenVINO."""

    KEEPS_TYPE = "DisablePrecisionConversion"
    """It is computed in its own type, whatever the precision hint says."""
    DECOMPRESSES = "decompression"
    """A weight's conversion to a wider type: the plugin keeps the weight as it is."""


_VALUES = {Mark.KEEPS_TYPE: {"value": "dynamic:dynamic"}, Mark.DECOMPRESSES: {}}


def marked(model: ov.Model, marks: Mapping[Mark, Sequence[ov.Node]], core: ov.Core) -> ov.Model:
    """The model with marks on its nodes; the same model if there are none.

    Args:
        model: its nodes are renamed.
        marks: nodes of the model that get each mark.
        core: reads the marked one.
    """
    if not any(marks.values()):
        return model
    wanted: dict[str, list[Mark]] = {}
    for mark, nodes in marks.items():
        for node in nodes:
            # Its own name, which no other node has, so that the same node is found twice.
            node.set_friendly_name(f"vllm_npu:{node.get_name()}")
            wanted.setdefault(node.get_friendly_name(), []).append(mark)
    with TemporaryDirectory(prefix="vllm-npu-") as directory:
        path = Path(directory) / "model.xml"
        ov.serialize(model, path)
        tree = ElementTree.parse(path)
        for layer in tree.iterfind("layers/layer"):
            for mark in wanted.get(str(layer.get("name")), ()):
                _write(layer, mark)
        tree.write(path)
        result = core.read_model(path)
    restore(result)
    return result


def _write(layer: ElementTree.Element, mark: Mark) -> None:
    info = layer.find("rt_info")
    if info is None:
        info = ElementTree.Element("rt_info")
        layer.insert(0 if layer.find("data") is None else 1, info)
    attribute = {"name": mark.value, "version": "0", **_VALUES[mark]}
    ElementTree.SubElement(info, "attribute", attribute)

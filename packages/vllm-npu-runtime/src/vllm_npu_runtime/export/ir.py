"""OpenVINO IR whose constants lie in a safetensors file, among the weights.

OpenVINO writes a graph's constants to a file of its own. Here the XML is changed so that every
constant is read from where it lies in the weights file: `core.read_model(xml, weights)` maps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from vllm_npu_runtime.artifact.manifest import Graph, Port
from vllm_npu_runtime.export.tensor_file import ALIGNMENT, Slot

if TYPE_CHECKING:
    import openvino as ov


@dataclass
class Drawing:
    """A graph on its way to the disk.

    Attributes:
        name: of the graph.
        tree: its XML, in which weights are parameters.
        constants: everything constant that isn't a weight.
        weights: names of the parameters that are.
        inputs: of the graph, without the weights.
        outputs: of the graph.
    """

    name: str
    tree: ElementTree.ElementTree[ElementTree.Element[str]]
    constants: bytes
    weights: frozenset[str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def slot(self) -> Slot:
        """Room for `constants` in the weights file."""
        return Slot(f"npu.{self.name}.constants", "uint8", (len(self.constants),))

    @property
    def graph(self) -> Graph:
        """What the manifest says of it."""
        return Graph(file=f"{self.name}.xml", inputs=self.inputs, outputs=self.outputs)

    def write(self, directory: Path, offsets: Mapping[str, int]) -> None:
        """Write the XML.

        Args:
            directory: to write to.
            offsets: of the weights file's tensors, in bytes from its beginning.
        """
        for layer in self.tree.iterfind("layers/layer"):
            data = layer.find("data")
            if data is None:
                continue
            if layer.get("type") == "Const":
                data.set("offset", str(int(data.get("offset", "0")) + offsets[self.slot.name]))
            elif layer.get("name") in self.weights:
                _become_constant(layer, data, offsets[str(layer.get("name"))])
        self.tree.write(directory / self.graph.file, encoding="utf-8", xml_declaration=True)


def draw(
    name: str, model: ov.Model, weights: Sequence[str], widening: Sequence[ov.Node]
) -> Drawing:
    """Prepare a graph for writing.

    Args:
        name: of the graph.
        model: it is changed.
        weights: names of the parameters that are weights.
        widening: conversions of weights to float32, which the plugin must not carry out
            beforehand.
    """
    import openvino as ov

    from vllm_npu_runtime.openvino.angles import angles
    from vllm_npu_runtime.openvino.devices import core
    from vllm_npu_runtime.openvino.marks import Mark, marked

    marks = {Mark.DECOMPRESSES: list(widening), Mark.KEEPS_TYPE: angles(model)}
    model = marked(model, marks, core())
    known = frozenset(weights)
    inputs = tuple(port for port in map(_port, model.inputs) if port.name not in known)
    outputs = tuple(map(_port, model.outputs))
    with TemporaryDirectory(prefix="vllm-npu-") as directory:
        path = Path(directory) / f"{name}.xml"
        ov.serialize(model, path)
        tree = ElementTree.parse(path)
        constants = path.with_suffix(".bin").read_bytes()
    constants += bytes(-len(constants) % ALIGNMENT)
    return Drawing(name, tree, constants or bytes(ALIGNMENT), known, inputs, outputs)


def _port(port: ov.Output) -> Port:
    shape = port.get_partial_shape()
    extents = tuple(each.get_length() if each.is_static else -1 for each in shape)
    kind = port.get_element_type().get_type_name()
    return Port(name=port.get_any_name(), dtype=kind, shape=extents)


def _become_constant(layer: ElementTree.Element, data: ElementTree.Element, offset: int) -> None:
    kind = str(data.get("element_type"))
    extents = [int(each) for each in str(data.get("shape")).split(",")]
    bits = {"f32": 32, "bf16": 16, "f16": 16, "u8": 8, "u4": 4}[kind]
    for extent in extents:
        bits *= extent
    layer.set("type", "Const")
    layer.set("version", "opset1")
    data.attrib.clear()
    data.set("element_type", kind)
    data.set("shape", ", ".join(map(str, extents)))
    data.set("offset", str(offset))
    data.set("size", str(bits // 8))

"""A graph of pure functions as an `ov.Model`."""

from __future__ import annotations

import re
from collections.abc import Mapping

import openvino as ov
import torch
from openvino._offline_transformations import apply_moc_transformations
from openvino.frontend import FrontEndManager, OpConversionFailure
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from openvino.frontend.pytorch.utils import torch_tensor_to_ov_const

from vllm_npu_runtime.errors import UnsupportedOperatorError
from vllm_npu_runtime.openvino import attention, packed_linear, rotary
from vllm_npu_runtime.openvino.angles import angles
from vllm_npu_runtime.openvino.arithmetic import in_float32
from vllm_npu_runtime.openvino.devices import core
from vllm_npu_runtime.openvino.functional import PureGraph
from vllm_npu_runtime.openvino.marks import Mark, marked
from vllm_npu_runtime.openvino.operators import TRANSLATORS
from vllm_npu_runtime.openvino.split_products import part_of, whole_name


class Unconverted(UnsupportedOperatorError):
    """Operators that OpenVINO's frontend doesn't convert.

    Attributes:
        operators: their names, as `aten.mm`.
    """

    def __init__(self, operators: frozenset[str]) -> None:
        super().__init__(f"OpenVINO doesn't convert {', '.join(sorted(operators))}.")
        self.operators = operators


def convert(pure: PureGraph) -> ov.Model:
    """Convert with every input, weights included, as a parameter named as in the program.

    Without the weights a model is small enough to keep; `with_weights` puts them in.

    Raises:
        Unconverted: names the operators that are the reason.
    """
    frontend = FrontEndManager().load_by_framework("pytorch")
    own = {each.OPERATOR: each.translate for each in (attention, rotary)}
    for name, translate in {**own, **packed_linear.TRANSLATORS, **TRANSLATORS}.items():
        frontend.add_extension(ConversionExtension(name, translate))
    decoder = TorchFXPythonDecoder(pure.graph)
    try:
        model = frontend.convert(frontend.load(decoder))
    except OpConversionFailure as failure:
        raise Unconverted(_named(str(failure))) from None
    placeholders = pure.graph.graph.find_nodes(op="placeholder")
    names = {node.name: name for node, name in zip(placeholders, pure.inputs, strict=True)}
    for parameter in model.get_parameters():  # those that are read
        name = names[parameter.get_friendly_name()]
        parameter.set_friendly_name(name)
        parameter.get_output_tensor(0).set_names({name})
    # Fuses a weight's transposition into the product; done later, it would copy the weight.
    apply_moc_transformations(model, cf=False)
    model.validate_nodes_and_infer_types()
    marks = {Mark.DECOMPRESSES: in_float32(model), Mark.KEEPS_TYPE: angles(model)}
    return marked(model, marks, core())


def with_weights(model: ov.Model, weights: Mapping[str, torch.Tensor]) -> ov.Model:
    """A copy with parameters replaced by constants that share the weights' memory.

    The caller keeps `weights` alive for as long as the copy, or what is compiled from it, lives.
    """
    whole = model.clone()
    for parameter in list(whole.get_parameters()):
        name = parameter.get_friendly_name()
        if (whole_weight := weights.get(whole_name(name))) is None:
            continue
        constant = _constant(parameter, part_of(name, whole_weight))
        constant.set_friendly_name(name)
        for user in list(parameter.output(0).get_target_inputs()):
            user.replace_source_output(constant.output(0))
        whole.remove_parameter(parameter)
    whole.validate_nodes_and_infer_types()
    return whole


def _constant(parameter: ov.Node, weight: torch.Tensor) -> ov.Node:
    """The weight that a parameter stands for; packed ones have a type and shape of their own."""
    shape = list(parameter.output(0).get_shape())
    if parameter.get_element_type() == ov.Type.u4:
        return packed_linear.constant(weight, ov.Type.u4, shape)
    return torch_tensor_to_ov_const(weight.reshape(shape), shared_memory=True)


def _named(report: str) -> frozenset[str]:
    """Operators named in a frontend's report of failure, as `aten.mm`."""
    found = re.findall(r"(?m)^-- (\S+) with a message|No translator found for: ?(\S+)", report)
    listed = re.findall(r"(?:is failed for|translator found for|for operations): (.+)", report)
    names = {each for pair in found for each in pair if each}
    names |= {each.strip() for line in listed for each in line.split(",")}
    plain = {".".join(each.replace("::", ".").split(".")[:2]) for each in names if each}
    plain = {each.rstrip(".") for each in plain}
    return frozenset(plain) or frozenset({report.strip().splitlines()[-1]})

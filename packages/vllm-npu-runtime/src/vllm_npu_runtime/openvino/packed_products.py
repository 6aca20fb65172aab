"""Products with packed weights in a converted model: their groups, and what their rows are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import openvino as ov

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.program import Kind, Program

GROUPS = (32, 64, 128)
"""Activations that may share a scale, as option `dynamic_quantization` takes them."""
# What stands between a packed weight and its product, as `packed_linear` builds it.
_DECOMPRESSION = frozenset({"Convert", "Subtract", "Multiply", "Reshape"})
_EXAMPLE = 5  # any number of rows would do
_PACKED = (ov.Type.u4, ov.Type.u8)


@dataclass(frozen=True)
class PackedProduct:
    """A product of activations and a packed weight.

    Attributes:
        weight: name of the weight's parameter.
        group: inputs that share a scale of the weight.
        rows: rows of the activations; None where they vary.
    """

    weight: str
    group: int
    rows: int | None


@dataclass(frozen=True)
class VaryingInput:
    """An input, and the dimension of it that varies from run to run."""

    name: str
    axis: int


def packed_products(model: ov.Model) -> list[PackedProduct]:
    """Those of a model whose weights are parameters still, in the order in which they run."""
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or (weight := _weight(node)) is None:
            continue
        extents = list(node.input_value(0).get_partial_shape())[:-1]
        varies = any(extent.is_dynamic for extent in extents)
        rows = None if varies else math.prod(extent.get_length() for extent in extents)
        group = weight.output(0).get_partial_shape()[2].get_length()
        found.append(PackedProduct(weight.get_friendly_name(), group, rows))
    return found


def check_groups(products: Sequence[PackedProduct], group: int) -> None:
    """Refuse products whose activations the plugin would leave as they are, without a word.

    Args:
        products: of a model.
        group: activations that share a scale when they are rounded.

    Raises:
        ConfigurationError: a group of activations would be longer than a weight's group.
    """
    shortest = min(products, key=lambda each: each.group, default=None)
    if shortest is None or shortest.group >= group:
        return
    allowed = [str(each) for each in GROUPS if each <= shortest.group]
    raise ConfigurationError(
        f"Option 'dynamic_quantization' of driver 'openvino' is {group}: weight "
        f"'{shortest.weight}' has a scale for each {shortest.group} inputs, and a group of "
        "activations can't be longer. "
        f"{'Use ' + ' or '.join(allowed) if allowed else 'Leave the option out'}."
    )


def input_of_rows(program: Program, model: ov.Model) -> VaryingInput | None:
    """The input whose extent is the number of rows of a model's first packed product.

    A graph doesn't name its extents, and one that was read from a file has no program's symbols
    either. So each varying extent is fixed in turn, until the product's rows are fixed with it.

    Args:
        program: that `model` was converted from.
        model: with at least one packed product, whose rows vary.
    """
    for binding in program.inputs:
        if binding.kind is Kind.INPUT and None in binding.shape:
            varying = VaryingInput(binding.name, binding.shape.index(None))
            if _fixes_rows(model.clone(), varying):
                return varying
    return None


def _fixes_rows(model: ov.Model, varying: VaryingInput) -> bool:
    """Whether the rows are as many as an extent is; the model is changed."""
    for parameter in model.get_parameters():
        if parameter.get_friendly_name() == varying.name:
            shape = parameter.get_partial_shape()
            shape[varying.axis] = _EXAMPLE
            parameter.set_partial_shape(shape)
            model.validate_nodes_and_infer_types()
            return packed_products(model)[0].rows == _EXAMPLE
    return False


def _weight(product: ov.Node) -> ov.Node | None:
    """The parameter that is a product's packed weight; None for any other product."""
    node = product.input_value(1).get_node()
    while node.get_type_name() in _DECOMPRESSION:
        node = node.input_value(0).get_node()
    is_packed = node.get_type_name() == "Parameter" and node.get_element_type() in _PACKED
    return node if is_packed and len(node.output(0).get_partial_shape()) == 3 else None

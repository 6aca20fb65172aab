"""ATen operators that OpenVINO computes, but its PyTorch frontend doesn't convert."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import openvino as ov
import openvino.opset15 as ops

Translator = Callable[[ov.frontend.NodeContext], list[ov.Output]]


def _shift(operation: Callable[[ov.Output, ov.Node], ov.Node]) -> Translator:
    def translate(context: ov.frontend.NodeContext) -> list[ov.Output]:
        number, places = context.get_input(0), context.get_input(1)
        return [operation(number, ops.convert_like(places, number)).output(0)]

    return translate


TRANSLATORS: Mapping[str, Translator] = {
    f"aten.{name}.{overload}": _shift(operation)
    for name, operation in {
        "__lshift__": ops.bitwise_left_shift,
        "__rshift__": ops.bitwise_right_shift,
        "bitwise_left_shift": ops.bitwise_left_shift,
        "bitwise_right_shift": ops.bitwise_right_shift,
    }.items()
    for overload in ("Scalar", "Tensor", "Tensor_Scalar")
}
"""By the name under which the frontend looks for a translation."""

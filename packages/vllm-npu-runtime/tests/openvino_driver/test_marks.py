"""Marks on nodes, and the angles that get one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

ov = pytest.importorskip("openvino")

import openvino.opset15 as ops

from vllm_npu_runtime.drivers.base import KVBlock
from vllm_npu_runtime.openvino import kv_cache
from vllm_npu_runtime.openvino.angles import angles
from vllm_npu_runtime.openvino.devices import core
from vllm_npu_runtime.openvino.marks import Mark, marked

from .programs import load, make, needs_bfloat16


def _is_marked(node: ov.Node, mark: Mark) -> bool:
    return any(mark.value in key for key in node.get_rt_info())


def _marks(model: ov.Model) -> dict[str, set[Mark]]:
    """Of every operation that has any, by its type."""
    found = {
        node.get_type_name(): {mark for mark in Mark if _is_marked(node, mark)}
        for node in model.get_ops()
    }
    return {kind: marks for kind, marks in found.items() if marks}


class _Chain:
    """sin(2 · (p - 1)) + tanh(p): every operation stands once."""

    def __init__(self) -> None:
        p = ops.parameter([4], ov.Type.f32, name="p")
        p.output(0).get_tensor().set_names({"p"})
        self.less = ops.subtract(p, ops.constant(np.float32(1)))
        self.twice = ops.multiply(self.less, ops.constant(np.float32(2)))
        self.sine = ops.sin(self.twice)
        self.tanh = ops.tanh(p)
        self.model = ov.Model([ops.add(self.sine, self.tanh)], [p], "m")


class TestMarks:
    """What a model's nodes say of themselves."""

    @pytest.mark.parametrize("mark", Mark)
    def test_node_has_the_mark(self, mark: Mark) -> None:
        """And no other node has."""
        chain = _Chain()
        assert _marks(marked(chain.model, {mark: [chain.twice]}, core())) == {"Multiply": {mark}}

    def test_several_marks_at_once(self) -> None:
        """Each on its nodes."""
        chain = _Chain()
        marks = {
            Mark.KEEPS_TYPE: [chain.twice, chain.sine],
            Mark.DECOMPRESSES: [chain.tanh, chain.less],
        }
        assert _marks(marked(chain.model, marks, core())) == {
            "Multiply": {Mark.KEEPS_TYPE},
            "Sin": {Mark.KEEPS_TYPE},
            "Tanh": {Mark.DECOMPRESSES},
            "Subtract": {Mark.DECOMPRESSES},
        }

    def test_several_marks_on_one_node(self) -> None:
        """As on the conversion of a frequency that is kept in bfloat16."""
        chain = _Chain()
        marks = {mark: [chain.twice] for mark in Mark}
        assert _marks(marked(chain.model, marks, core())) == {"Multiply": set(Mark)}

    @pytest.mark.parametrize("marks", [{}, {Mark.KEEPS_TYPE: [], Mark.DECOMPRESSES: []}])
    def test_model_without_marks_is_returned_as_is(self, marks: dict[Mark, list[ov.Node]]) -> None:
        """It isn't written and read again."""
        model = _Chain().model
        assert marked(model, marks, core()) is model

    def test_ports_and_values_stay(self) -> None:
        """A marked model computes the same."""
        chain, p = _Chain(), np.array([0, 1, -2, 3], np.float32)
        model = marked(chain.model, {Mark.KEEPS_TYPE: [chain.sine]}, core())
        assert [port.get_names() for port in model.inputs] == [{"p"}]
        out = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(p)[0]
        np.testing.assert_allclose(out, np.sin(2 * (p - 1)) + np.tanh(p), rtol=1e-5, atol=1e-5)

    def test_attention_still_knows_its_heads(self) -> None:
        """No file keeps them, and the plugin needs them."""
        model = kv_cache.probe(KVBlock(2, 64, 32, torch.float32))
        sizes = _sizes(model)
        node = next(each for each in model.get_ops() if each.get_type_name() == "Reshape")
        assert _sizes(marked(model, {Mark.KEEPS_TYPE: [node]}, core())) == sizes


def _sizes(model: ov.Model) -> dict[str, int]:
    (attention,) = (
        each for each in model.get_ops() if each.get_type_name() == "PagedAttentionExtension"
    )
    names = ("k_head_size", "v_head_size", "num_k_heads", "num_v_heads")
    return {name: attention.get_rt_info()[name].astype(int) for name in names}


class TestAngles:
    """What is computed in float32 whatever the arithmetic is."""

    def test_arguments_are_found_and_nothing_else(self) -> None:
        """Parameters and constants compute nothing."""
        found = angles(_Chain().model)
        assert sorted(node.get_type_name() for node in found) == ["Multiply", "Sin", "Subtract"]

    def test_model_without_sines_has_none(self) -> None:
        """Other functions stand numbers that are rounded."""
        p = ops.parameter([4], ov.Type.f32, name="p")
        twice = ops.multiply(p, ops.constant(np.float32(2)))
        assert angles(ov.Model([ops.add(ops.tanh(twice), ops.exp(twice))], [p], "m")) == []

    def test_shared_arguments_are_found_once(self) -> None:
        """Sine and cosine are mostly of the same angle."""
        p = ops.parameter([4], ov.Type.f32, name="p")
        twice = ops.multiply(p, ops.constant(np.float32(2)))
        found = angles(ov.Model([ops.sin(twice), ops.cos(twice)], [p], "m"))
        assert sorted(node.get_type_name() for node in found) == ["Cos", "Multiply", "Sin"]

    def test_integers_are_left_out(self) -> None:
        """They are exact anyway; their conversion is where float32 begins."""
        p = ops.parameter([4], ov.Type.i64, name="p")
        later = ops.add(p, ops.constant(np.int64(1)))
        found = angles(ov.Model([ops.cos(ops.convert(later, "f32"))], [p], "m"))
        assert sorted(node.get_type_name() for node in found) == ["Convert", "Cos"]

    def test_unsqueeze_becomes_a_reshape(self) -> None:
        """The CPU plugin drops an unsqueeze's mark."""
        p = ops.parameter([-1, 3], ov.Type.f32, name="p")
        wider = ops.unsqueeze(ops.unsqueeze(p, ops.constant(1)), ops.constant(2))
        model = ov.Model([ops.sin(wider)], [p], "m")
        assert sorted(node.get_type_name() for node in angles(model)) == [
            "Reshape",
            "Reshape",
            "Sin",
        ]
        assert "Unsqueeze" not in {node.get_type_name() for node in model.get_ops()}
        rows = np.arange(6, dtype=np.float32).reshape(2, 3)
        out = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(rows)[0]
        np.testing.assert_allclose(out, np.sin(rows)[:, None, None], rtol=1e-5, atol=1e-5)

    def test_unsqueeze_of_unknown_extents_stays(self) -> None:
        """A reshape couldn't tell two of them apart."""
        p = ops.parameter([-1, -1], ov.Type.f32, name="p")
        found = angles(ov.Model([ops.sin(ops.unsqueeze(p, ops.constant(0)))], [p], "m"))
        assert sorted(node.get_type_name() for node in found) == ["Sin", "Unsqueeze"]

    @needs_bfloat16
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_late_positions_are_right_in_bfloat16(self, dtype: torch.dtype) -> None:
        """Angles of thousands, with frequencies of either dtype."""
        positions = torch.tensor([0, 1, 5000, 131071])
        w = (torch.arange(1, 9) / 7).reciprocal().to(dtype)
        w_out = torch.eye(16, dtype=torch.bfloat16)  # from a product on, the plugin is in bfloat16

        def rotations(
            positions: torch.Tensor, w: torch.Tensor, w_out: torch.Tensor
        ) -> torch.Tensor:
            angle = (positions.float().unsqueeze(1) * w.float()).unsqueeze(1)
            return torch.cat((angle.cos(), angle.sin()), -1).squeeze(1).to(w_out.dtype) @ w_out

        program = make(rotations, most=8, positions=positions, w=w, w_out=w_out)
        out = load(program, {"positions": positions}, precision="bf16").run()[0]
        torch.testing.assert_close(out, rotations(positions, w, w_out), rtol=0, atol=1e-2)

"""Gated feed-forward layers: fused where they are such, and left alone where they aren't."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("openvino")

from vllm_npu_runtime.openvino.devices import core

from .programs import kinds, load, make, rewritten

GATED_MLP = "vllm_npu_openvino.gated_mlp"
BFLOAT16_ERROR = 2e-2
Layer = Callable[..., torch.Tensor]


def _has_amx() -> bool:
    cpu = Path("/proc/cpuinfo")
    offered = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in offered and cpu.exists() and "amx_bf16" in cpu.read_text()


needs_amx = pytest.mark.skipif(
    not _has_amx(), reason="OpenVINO fuses gated layers on processors with AMX for bfloat16"
)


def _tensors(dtype: torch.dtype, hidden: int = 256, inner: int = 512) -> dict[str, torch.Tensor]:
    """Rows, the weights of gate and up in one, and that of down; results are about 1."""
    return {
        "x": torch.randn(5, hidden).to(dtype),
        "w": (torch.randn(2 * inner, hidden) * hidden**-0.5 * 1.5).to(dtype),
        "w_down": (torch.randn(hidden, inner) * inner**-0.5).to(dtype),
    }


def _layer(x: torch.Tensor, w: torch.Tensor, w_down: torch.Tensor) -> torch.Tensor:
    y, size = x @ w.t(), w.shape[0] // 2
    return (F.silu(y[..., :size]) * y[..., size:]) @ w_down.t()


def _wide(function: Layer, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return function(**{name: tensor.float() for name, tensor in tensors.items()})


@needs_amx
@pytest.mark.parametrize(("hidden", "inner"), [(64, 128), (256, 512), (512, 1024)])
def test_layer_is_one_operation(hidden: int, inner: int) -> None:
    """In bfloat16, for any number of rows, and right within its roundings."""
    tensors = _tensors(torch.bfloat16, hidden, inner)
    x = tensors["x"]
    executable = load(make(_layer, most=8, **tensors), {"x": x})
    assert kinds(executable).count("LLMMLP") == 1
    assert "FullyConnected" not in kinds(executable)
    for count in (5, 1):
        executable.bind({"x": x[:count]})
        out = executable.run()[0]
        assert out.dtype is torch.bfloat16
        expected = _wide(_layer, tensors | {"x": x[:count]})
        torch.testing.assert_close(out.float(), expected, rtol=BFLOAT16_ERROR, atol=BFLOAT16_ERROR)


@needs_amx
def test_weights_of_its_own_for_the_gate() -> None:
    """Not only those that vLLM keeps in one."""
    tensors = _tensors(torch.bfloat16)
    gate, up = tensors.pop("w").chunk(2)
    tensors |= {"w_gate": gate.clone(), "w_up": up.clone()}

    def layer(
        x: torch.Tensor, w_gate: torch.Tensor, w_up: torch.Tensor, w_down: torch.Tensor
    ) -> torch.Tensor:
        return (F.silu(x @ w_gate.t()) * (x @ w_up.t())) @ w_down.t()

    executable = load(make(layer, **tensors), {"x": tensors["x"]})
    assert "LLMMLP" in kinds(executable)
    out, expected = executable.run()[0].float(), _wide(layer, tensors)
    torch.testing.assert_close(out, expected, rtol=BFLOAT16_ERROR, atol=BFLOAT16_ERROR)


@needs_amx
def test_new_weights_take_effect() -> None:
    """In the fused operation."""
    tensors = _tensors(torch.bfloat16)
    executable = load(make(_layer, **tensors), {"x": tensors["x"]})
    other = _tensors(torch.bfloat16) | {"x": tensors["x"]}
    executable.bind({name: other[name] for name in ("w", "w_down")})
    out, expected = executable.run()[0].float(), _wide(_layer, other)
    torch.testing.assert_close(out, expected, rtol=BFLOAT16_ERROR, atol=BFLOAT16_ERROR)


@pytest.mark.parametrize(("hidden", "inner"), [(32, 32), (48, 96), (64, 80)])
def test_sizes_that_the_operation_does_not_take_are_left_alone(hidden: int, inner: int) -> None:
    """And are right: with an inner size of 32 its kernel would end the process."""
    tensors = _tensors(torch.bfloat16, hidden, inner)
    program = make(_layer, most=8, **tensors)
    assert GATED_MLP not in rewritten(program)
    out = load(program, {"x": tensors["x"]}).run()[0].float()
    expected = _wide(_layer, tensors)
    torch.testing.assert_close(out, expected, rtol=BFLOAT16_ERROR, atol=BFLOAT16_ERROR)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_layer_is_right_with_any_number_of_threads(threads: int) -> None:
    """With one the operation's kernel would end the process, so that is left alone."""
    tensors = _tensors(torch.bfloat16)
    executable = load(make(_layer, **tensors), {"x": tensors["x"]}, threads=threads)
    assert threads > 1 or "LLMMLP" not in kinds(executable)
    out, expected = executable.run()[0].float(), _wide(_layer, tensors)
    torch.testing.assert_close(out, expected, rtol=BFLOAT16_ERROR, atol=BFLOAT16_ERROR)


def test_float32_layer_is_right() -> None:
    """It is rewritten as well, for any number of rows."""
    tensors = _tensors(torch.float32, 64, 96)
    x = tensors["x"]
    program = make(_layer, most=8, **tensors)
    assert GATED_MLP in rewritten(program)
    executable = load(program, {"x": x})
    for count in (5, 1):
        executable.bind({"x": x[:count]})
        torch.testing.assert_close(executable.run()[0], _layer(**tensors | {"x": x[:count]}))


def test_input_in_place_of_a_weight_is_right() -> None:
    """It may be rewritten, but the operation that reads constants doesn't come of it."""
    tensors = _tensors(torch.bfloat16)
    tensors["down"] = tensors.pop("w_down")

    def layer(x: torch.Tensor, w: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        return _layer(x, w, down)

    executable = load(make(layer, **tensors), tensors, precision="f32")
    assert "LLMMLP" not in kinds(executable)
    out, expected = executable.run()[0].float(), _wide(layer, tensors)
    torch.testing.assert_close(out, expected, rtol=BFLOAT16_ERROR, atol=BFLOAT16_ERROR)


def _variant(
    inside: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    after: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda y, w_down: y @ w_down.t(),
) -> Layer:
    def layer(x: torch.Tensor, w: torch.Tensor, w_down: torch.Tensor) -> torch.Tensor:
        y, size = x @ w.t(), w.shape[0] // 2
        return after(inside(y[..., :size], y[..., size:]), w_down)

    return layer


def _gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def _seen_inside(x: torch.Tensor, w: torch.Tensor, w_down: torch.Tensor) -> torch.Tensor:
    y, size = x @ w.t(), w.shape[0] // 2
    activated = F.silu(y[..., :size])
    return torch.cat(((activated * y[..., size:]) @ w_down.t(), activated), dim=-1)


def _of_two_tensors(x: torch.Tensor, w: torch.Tensor, w_down: torch.Tensor) -> torch.Tensor:
    size = w.shape[0] // 2
    return (F.silu((x @ w.t())[..., :size]) * (x.tanh() @ w.t())[..., size:]) @ w_down.t()


VARIANTS = {
    "gelu": _variant(lambda gate, up: F.gelu(gate) * up),
    "no gate": _variant(lambda gate, up: F.silu(gate) + up),
    "activated twice": _variant(lambda gate, up: F.silu(gate) * F.silu(up)),
    "squared": _variant(lambda gate, up: F.silu(gate * up)),
    "down isn't transposed": _variant(_gated, lambda y, w_down: y @ w_down.t().contiguous()),
    "down is computed": _variant(_gated, lambda y, w_down: y @ (w_down * 2).t()),
    "its inside is an output": _seen_inside,
    "of two tensors": _of_two_tensors,
}


@pytest.mark.parametrize("function", VARIANTS.values(), ids=VARIANTS)
def test_variant_is_left_alone(function: Layer) -> None:
    """And is right."""
    tensors = _tensors(torch.float32, 64, 96)
    program = make(function, **tensors)
    assert GATED_MLP not in rewritten(program)
    out = load(program, {"x": tensors["x"]}).run()[0]
    torch.testing.assert_close(out, function(**tensors))

"""Rotary position embeddings: fused where they are such, and left alone where they aren't."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytest.importorskip("openvino")

from .programs import kinds, load, make, rewritten

ROTARY = "vllm_npu_openvino.rotary"
Rotation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _inputs(tokens: int = 5, heads: int = 4, size: int = 16) -> dict[str, torch.Tensor]:
    """A query, and cosines and sines with an axis for the heads."""
    angles = torch.randn(tokens, 1, size // 2) * 3
    return {"x": torch.randn(tokens, heads, size), "cos": angles.cos(), "sin": angles.sin()}


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = torch.chunk(x, 2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


def test_rotation_is_fused_and_right() -> None:
    """For any number of tokens, one included."""
    inputs = _inputs()
    executable = load(make(_rotated, most=8, **inputs), inputs)
    assert kinds(executable).count("RoPE") == 1
    for count in (5, 1):
        rows = {name: tensor[:count] for name, tensor in inputs.items()}
        executable.bind(rows)
        torch.testing.assert_close(executable.run()[0], _rotated(**rows))


def test_query_and_key_are_fused_each() -> None:
    """With other numbers of heads, and the axis for heads put in by the graph, as in vLLM."""
    inputs = _inputs() | {"key": torch.randn(5, 2, 16)}
    inputs |= {name: inputs[name].squeeze(1).contiguous() for name in ("cos", "sin")}

    def scores(
        x: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        return _rotated(x, cos, sin) @ _rotated(key, cos, sin).transpose(1, 2)

    executable = load(make(scores, most=8, **inputs), inputs)
    assert kinds(executable).count("RoPE") == 2
    torch.testing.assert_close(executable.run()[0], scores(**inputs))


def test_rotation_of_the_first_columns_is_fused() -> None:
    """Of a head's size, some models rotate a part only."""
    inputs = _inputs() | {"x": torch.randn(5, 4, 24)}

    def partly(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return torch.cat((_rotated(x[..., :16], cos, sin), x[..., 16:]), dim=-1)

    executable = load(make(partly, most=8, **inputs), inputs)
    assert kinds(executable).count("RoPE") == 1
    torch.testing.assert_close(executable.run()[0], partly(**inputs))


def test_halves_that_others_read_stay() -> None:
    """Only the rotation itself is replaced."""
    inputs = _inputs()

    def also_read(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return _rotated(x, cos, sin) + torch.chunk(x, 2, dim=-1)[0].sum(-1, keepdim=True)

    program = make(also_read, **inputs)
    assert ROTARY in rewritten(program)
    torch.testing.assert_close(load(program, inputs).run()[0], also_read(**inputs))


def _other_direction(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = torch.chunk(x, 2, dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


def _interleaved(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = x[..., ::2], x[..., 1::2]
    return torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).flatten(-2)


def _halves_exchanged(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x2, x1 = torch.chunk(x, 2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


def _factors_exchanged(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = torch.chunk(x, 2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * sin + x1 * cos), dim=-1)


def _scaled(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = torch.chunk(x, 2, dim=-1)
    return torch.cat((torch.sub(x1 * cos, x2 * sin, alpha=2), x2 * cos + x1 * sin), dim=-1)


def _joined_as_heads(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = torch.chunk(x, 2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=1)


def _split_by_heads(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = torch.chunk(x, 2, dim=1)
    cos, sin = (torch.cat((each, each), -1) for each in (cos, sin))
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


def _first_of_three(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2, _ = torch.chunk(torch.cat((x, x[..., :8]), -1), 3, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


def _of_two_tensors(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    x1, x2 = torch.chunk(x, 2, dim=-1)[0], torch.chunk(x.tanh(), 2, dim=-1)[1]
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


def _with_batches(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return _rotated(x[None], cos[None], sin[None])


@pytest.mark.parametrize(
    "function",
    [
        _other_direction,
        _interleaved,
        _halves_exchanged,
        _factors_exchanged,
        _scaled,
        _joined_as_heads,
        _split_by_heads,
        _first_of_three,
        _of_two_tensors,
        _with_batches,
    ],
)
def test_similar_graph_is_left_alone(function: Rotation) -> None:
    """And is right."""
    inputs = _inputs()
    program = make(function, **inputs)
    assert ROTARY not in rewritten(program)
    torch.testing.assert_close(load(program, inputs).run()[0], function(**inputs))


@pytest.mark.parametrize(
    "other",
    [
        {"cos": torch.rand(8), "sin": torch.rand(8)},
        {"cos": torch.rand(4, 8), "sin": torch.rand(4, 8)},
        {"x": torch.rand(4, 16)},
        {"x": torch.rand(1, 4, 16)},
        {"x": torch.rand(5, 4, 16).bfloat16()},
    ],
    ids=["angles for all", "angles by head", "no tokens", "one token for all", "narrow query"],
)
def test_other_shapes_and_types_are_right(other: dict[str, torch.Tensor]) -> None:
    """PyTorch broadcasts and widens them."""
    inputs = _inputs() | other
    out = load(make(_rotated, **inputs), inputs, precision="f32").run()[0]
    torch.testing.assert_close(out, _rotated(**inputs))


def test_angle_that_is_a_number_is_right() -> None:
    """Of a rotation by one angle for all."""
    x = torch.randn(5, 4, 16)
    out = load(make(lambda x: _rotated(x, 0.6, 0.8), x=x), {"x": x}).run()[0]
    torch.testing.assert_close(out, _rotated(x, 0.6, 0.8))

"""Products that are sliced into columns become products over rows of their weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("openvino")

from vllm_npu_runtime.openvino.convert import convert, with_weights
from vllm_npu_runtime.openvino.functional import functional
from vllm_npu_runtime.openvino.split_products import part_name, part_of, whole_name

from .programs import load, make

X, W = torch.randn(5, 24), torch.randn(32, 24)
PARTS = {"x", "w[0:16]", "w[16:32]"}


def _gated(y: torch.Tensor) -> torch.Tensor:
    return F.silu(y[..., :16]) * y[..., 16:]


def _plain(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return _gated(x @ w.t())


def test_names_of_parts() -> None:
    """Only rows at the end of a name count, as names may have brackets of their own."""
    assert part_name("experts[3].up", 0, 16) == "experts[3].up[0:16]"
    assert whole_name("experts[3].up[0:16]") == "experts[3].up"
    assert whole_name("experts[3]") == "experts[3]"


def test_part_shares_memory() -> None:
    """Nothing is copied."""
    part = part_of("w[16:30]", W)
    assert torch.equal(part, W[16:30])
    assert part.data_ptr() == W[16].data_ptr()
    assert part_of("w", W) is W


def test_sliced_product_is_split() -> None:
    """For any number of rows."""
    program = make(_plain, most=8, x=X, w=W)
    assert set(functional(program).inputs) == PARTS
    executable = load(program, {"x": X})
    for count in (5, 1):
        executable.bind({"x": X[:count]})
        torch.testing.assert_close(executable.run()[0], _plain(X[:count], W))


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        (lambda y: y[..., :10].sum(-1) + y[..., 10:].sum(-1), {"w[0:10]", "w[10:32]"}),
        (lambda y: y[..., :20] * y[..., 12:], {"w[0:20]", "w[12:32]"}),
        (lambda y: y[..., :16] * y[..., 16:99], {"w[0:16]", "w[16:32]"}),
        (lambda y: y[..., 4:8] + 1, {"w[4:8]"}),
        (lambda y: y[..., :16] * y[..., :16].tanh(), {"w[0:16]"}),
    ],
    ids=["uneven", "overlapping", "past the end", "one", "the same twice"],
)
def test_parts_are_the_columns_taken(
    function: Callable[[torch.Tensor], torch.Tensor], parts: set[str]
) -> None:
    """Each once, and no more of the weight."""
    program = make(lambda x, w: function(x @ w.t()), x=X, w=W)
    assert sorted(functional(program).inputs) == sorted({"x"} | parts)
    torch.testing.assert_close(load(program, {"x": X}).run()[0], function(X @ W.t()))


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y[..., :16] * y[..., 16:] + y.mean(),
        lambda y: y[..., :16] * y[..., -16:],
        lambda y: y[..., :16] * y[..., ::2],
        lambda y: y[:4, :] * 2 + y[1:, :],
        lambda y: y[..., :16] * y.split([16, 16], -1)[1],
        lambda y: y.tanh(),
        lambda y: _gated(y + torch.arange(32.0)),
    ],
    ids=["used whole", "negative", "stepped", "of rows", "split otherwise", "not sliced", "biased"],
)
def test_other_use_is_left_alone(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """And is right."""
    program = make(lambda x, w: function(x @ w.t()), x=X, w=W)
    assert set(functional(program).inputs) == {"x", "w"}
    torch.testing.assert_close(load(program, {"x": X}).run()[0], function(X @ W.t()))


def test_product_of_inputs_is_left_alone() -> None:
    """What is no weight is bound anew for every run."""
    inputs = {"x": X, "y": W}
    program = make(lambda x, y: _gated(x @ y.t()), **inputs)
    assert set(functional(program).inputs) == {"x", "y"}
    torch.testing.assert_close(load(program, inputs).run()[0], _gated(X @ W.t()))


def test_weight_that_is_read_elsewhere_stays() -> None:
    """Beside its parts."""

    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return _plain(x, w) + w.sum()

    program = make(function, x=X, w=W)
    assert set(functional(program).inputs) == PARTS | {"w"}
    torch.testing.assert_close(load(program, {"x": X}).run()[0], function(X, W))


def test_new_weight_takes_effect_in_the_parts() -> None:
    """It is bound under its own name."""
    program = make(_plain, x=X, w=W)
    executable = load(program, {"x": X})
    torch.testing.assert_close(executable.run()[0], _plain(X, W))
    other = torch.randn(32, 24)
    executable.bind({"w": other})
    torch.testing.assert_close(executable.run()[0], _plain(X, other))


def test_parts_are_not_copied_into_the_model() -> None:
    """Their constants lie where the weight's rows do."""
    model = with_weights(convert(functional(make(_plain, x=X, w=W))), {"w": W})
    found = {each.get_friendly_name(): each for each in model.get_ops()}
    assert found["w[0:16]"].data.ctypes.data == W.data_ptr()
    assert found["w[16:32]"].data.ctypes.data == W[16].data_ptr()

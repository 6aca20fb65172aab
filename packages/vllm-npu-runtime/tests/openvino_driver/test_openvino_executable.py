"""What OpenVINO runs: shared memory, numbers, time limits, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

ov = pytest.importorskip("openvino")

from vllm_npu_runtime.errors import BadShapeError, DeviceTimeoutError, UnsupportedOperatorError
from vllm_npu_runtime.openvino.convert import convert, with_weights
from vllm_npu_runtime.openvino.functional import functional

from .programs import load, make

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_product(dtype: torch.dtype) -> None:
    """Within a few roundings of the dtype."""
    x, w = torch.randn(8, 64).to(dtype), (torch.randn(64, 64) / 8).to(dtype)
    executable = load(make(lambda x, w: (x @ w).tanh(), x=x, w=w), {"x": x})
    out = executable.run()[0]
    assert out.dtype is dtype
    error = TOLERANCE[dtype]
    torch.testing.assert_close(out.float(), (x.float() @ w.float()).tanh(), rtol=error, atol=error)


def test_weights_are_not_copied_into_the_model() -> None:
    """Its constant lies where the tensor does."""
    x, w = torch.randn(4, 64), torch.randn(64, 64)
    model = with_weights(convert(functional(make(lambda x, w: x @ w, x=x, w=w))), {"w": w})
    constant = next(each for each in model.get_ops() if each.get_friendly_name() == "w")
    assert constant.data.ctypes.data == w.data_ptr()


def test_converted_model_holds_no_weights() -> None:
    """That is what is kept in the compile cache."""
    x, w = torch.randn(4, 64), torch.randn(64, 64)
    model = convert(functional(make(lambda x, w: x @ w, x=x, w=w)))
    assert {each.get_friendly_name() for each in model.get_parameters()} == {"x", "w"}
    constants = [each for each in model.get_ops() if each.get_type_name() == "Constant"]
    assert sum(each.data.nbytes for each in constants) < 1024


def test_input_is_shared() -> None:
    """Rewritten in place, and seen by the next run."""
    x = torch.zeros(4, 8)
    executable = load(make(lambda x: x + 1, x=x), {"x": x})
    first = executable.run()[0].clone()
    x.fill_(41.0)
    assert torch.equal(first, torch.ones(4, 8))
    assert torch.equal(executable.run()[0], torch.full((4, 8), 42.0))


def test_strided_input_is_read_anew() -> None:
    """OpenVINO can't look at it, so every run copies it."""
    x = torch.randn(4, 8)
    executable = load(make(lambda x: x * 2, x=x), {"x": x})
    turned = torch.randn(8, 4)
    executable.bind({"x": turned.t()})
    assert torch.equal(executable.run()[0], turned.t() * 2)
    turned.fill_(3.0)
    assert torch.equal(executable.run()[0], torch.full((4, 8), 6.0))
    executable.bind({"x": x})
    assert torch.equal(executable.run()[0], x * 2)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int32, torch.int64, torch.float64])
def test_result_dtypes(dtype: torch.dtype) -> None:
    """Those that models return."""
    x = torch.randn(4, 8) * 3
    out = load(make(lambda x: (x * 2).to(dtype), x=x), {"x": x}).run()[0]
    assert out.dtype is dtype
    assert torch.equal(out, (x * 2).to(dtype))


def test_input_that_nothing_reads() -> None:
    """The converter leaves it out; it can be bound all the same."""
    x, y = torch.randn(4, 8), torch.randn(3)
    program = make(lambda x, y: x + y.shape[0] + 0 * y.sum(), x=x, y=y)
    executable = load(program, {"x": x, "y": y})
    torch.testing.assert_close(executable.run()[0], x + 3)


def test_write_to_an_input_stays_inside() -> None:
    """It is brought anew by every run, so nobody else would read it."""
    x = torch.randn(4, 8)
    before = x.clone()
    executable = load(make(lambda x: x.add_(1) * 2, x=x), {"x": x})
    torch.testing.assert_close(executable.run()[0], (before + 1) * 2)


def test_write_to_a_weight_is_refused() -> None:
    """The next run would have to read it."""
    x, w = torch.randn(4, 8), torch.randn(8)
    program = make(lambda x, w: x * w.add_(1), x=x, w=w)
    with pytest.raises(UnsupportedOperatorError, match="writes to its input 'w'"):
        load(program, {"x": x})


def test_rows_vary() -> None:
    """One executable for all numbers of them; other extents are refused."""
    x, w = torch.randn(64, 8), torch.randn(8, 8)
    executable = load(make(lambda x, w: x @ w, most=64, x=x, w=w), {"x": x})
    for count in (64, 1, 7):
        executable.bind({"x": x[:count]})
        torch.testing.assert_close(executable.run()[0], x[:count] @ w)
    with pytest.raises(BadShapeError):
        executable.bind({"x": torch.randn(3, 9)})


def _slow(x: torch.Tensor) -> torch.Tensor:
    y = x
    for _ in range(8):
        y = y @ x * 1e-2
    return y


def test_timeout() -> None:
    """A typed error, and the executable can still be used, or says why not, in the same type."""
    x = torch.randn(1500, 1500)
    executable = load(make(_slow, x=x), {"x": x}, timeout=0.005)
    for _ in range(3):
        with pytest.raises(DeviceTimeoutError, match="'p'"):
            executable.run()
    executable.close()


def test_runs_again_after_a_timeout() -> None:
    """When the device has let go of the request."""
    x = torch.randn(1500, 1500)
    executable = load(make(_slow, x=x), {"x": x}, timeout=0.005)
    with pytest.raises(DeviceTimeoutError):
        executable.run()
    executable._timeout = 60.0
    torch.testing.assert_close(executable.run()[0], _slow(x), rtol=1e-3, atol=1e-3)


def test_one_executable_in_several_threads() -> None:
    """They take turns."""
    x = torch.randn(256, 256)
    executable = load(make(lambda x: x @ x, x=x), {"x": x})
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: executable.run()[0], range(16)):
            torch.testing.assert_close(result, x @ x, rtol=1e-3, atol=1e-3)


def test_far_angles_are_exact_in_bfloat16() -> None:
    """Between products in bfloat16, sines are of float32 angles."""
    x, w = torch.randn(4, 64).bfloat16(), (torch.randn(64, 64) / 8).bfloat16()
    places = torch.tensor([0, 333, 5001, 100_003])

    def turned(x: torch.Tensor, w: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        angles = places.unsqueeze(1) * torch.tensor([[1.0, 0.3, 0.01, 0.001]])
        factors = torch.cat([angles.sin(), angles.cos()], 1).repeat(1, 8).to(x.dtype)
        return (x @ w * factors) @ w

    steps = torch.tensor([[1.0, 0.3, 0.01, 0.001]])
    program = make(
        lambda x, w, places, steps: (
            x @ w * torch.cat([(places.unsqueeze(1) * steps).sin(),
                               (places.unsqueeze(1) * steps).cos()], 1).repeat(1, 8).to(x.dtype)
        ) @ w,
        x=x, w=w, places=places, steps=steps,
    )  # fmt: skip
    out = load(program, {"x": x, "places": places, "steps": steps}).run()[0]
    expected = turned(x.float(), w.float(), places)
    torch.testing.assert_close(out.float(), expected, rtol=4e-2, atol=4e-2)

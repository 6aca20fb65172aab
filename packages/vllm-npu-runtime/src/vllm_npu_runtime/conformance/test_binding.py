"""What is bound is read at every run, checked when bound, and kept alive."""

import gc

import pytest
import torch

from vllm_npu_runtime.conformance.bench import Bench, run
from vllm_npu_runtime.conformance.oracle import assert_close
from vllm_npu_runtime.drivers.base import Executable
from vllm_npu_runtime.errors import BadShapeError, NPUError

ROWS, COLUMNS = 4, 32


@pytest.fixture
def x(finest: torch.dtype) -> torch.Tensor:
    """The input."""
    return torch.randn(ROWS, COLUMNS).to(finest)


@pytest.fixture
def weight(finest: torch.dtype) -> torch.Tensor:
    """The weight."""
    return (torch.randn(COLUMNS, COLUMNS) * COLUMNS**-0.5).to(finest)


@pytest.fixture
def product(bench: Bench, x: torch.Tensor, weight: torch.Tensor) -> Executable:
    """x @ weight, bound to both."""
    return bench.compile(lambda: {"out": x @ weight}, {"x": x}, {"weight": weight})


def _check(product: Executable, x: torch.Tensor, weight: torch.Tensor) -> None:
    assert_close(run(product)["out"], x.float() @ weight.float(), x.dtype)


def test_runs_again_with_the_same_result(product: Executable) -> None:
    """Nothing of one run stays behind for the next."""
    assert torch.equal(run(product)["out"], run(product)["out"])


def test_in_place_update_is_seen(
    product: Executable, x: torch.Tensor, weight: torch.Tensor
) -> None:
    """A bound buffer that the host rewrites is read anew, not remembered."""
    product.run()
    x.copy_(torch.randn(x.shape))
    _check(product, x, weight)


def test_input_can_be_bound_anew(
    product: Executable, x: torch.Tensor, weight: torch.Tensor
) -> None:
    """Another tensor takes the place of the first."""
    product.run()
    other = torch.randn(x.shape).to(x.dtype)
    product.bind({"x": other})
    _check(product, other, weight)


def test_weight_can_be_bound_anew(
    product: Executable, x: torch.Tensor, weight: torch.Tensor
) -> None:
    """Reloaded weights take effect, whatever was compiled in, and inputs stay bound."""
    product.run()
    other = torch.randn(weight.shape).to(weight.dtype)
    product.bind({"weight": other})
    _check(product, x, other)


def test_rewritten_weight_can_be_bound_again(
    product: Executable, x: torch.Tensor, weight: torch.Tensor
) -> None:
    """Weights are often reloaded into the memory that they had; binding tells the device."""
    product.run()
    weight.copy_(torch.randn(weight.shape))
    product.bind({"weight": weight})
    _check(product, x, weight)


def test_slice_of_a_buffer_can_be_bound(
    product: Executable, x: torch.Tensor, weight: torch.Tensor
) -> None:
    """Smaller buckets read the first rows of a buffer that all buckets share."""
    buffer = torch.randn(3 * ROWS, COLUMNS).to(x.dtype)
    product.bind({"x": buffer[ROWS : 2 * ROWS]})
    _check(product, buffer[ROWS : 2 * ROWS], weight)
    buffer.mul_(-1)
    _check(product, buffer[ROWS : 2 * ROWS], weight)


def test_result_is_valid_until_the_next_run(
    bench: Bench, product: Executable, x: torch.Tensor, weight: torch.Tensor
) -> None:
    """Changing inputs or running another executable leaves it alone."""
    expected = x.float() @ weight.float()
    result = product.run()[0]
    x.zero_()
    other = bench.compile(lambda: {"out": x @ weight + 1}, {"x": x}, {"weight": weight})
    other.run()
    assert_close(result, expected, x.dtype)


def test_inputs_are_not_written(product: Executable, x: torch.Tensor, weight: torch.Tensor) -> None:
    """A program without in-place operators leaves its inputs as they were."""
    before = x.clone(), weight.clone()
    product.run()
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])


def test_unknown_name_is_refused(product: Executable, x: torch.Tensor) -> None:
    """A name that the program doesn't have."""
    with pytest.raises(BadShapeError, match="no_such_input"):
        product.bind({"no_such_input": x})


@pytest.mark.parametrize("name", ["x", "weight"])
def test_other_shape_is_refused(product: Executable, name: str, finest: torch.dtype) -> None:
    """More rows than were compiled."""
    with pytest.raises(BadShapeError, match=name):
        product.bind({name: torch.zeros(COLUMNS + 1, COLUMNS, dtype=finest)})


@pytest.mark.parametrize("name", ["x", "weight"])
def test_other_dtype_is_refused(product: Executable, name: str) -> None:
    """The right shape in another dtype."""
    rows = ROWS if name == "x" else COLUMNS
    with pytest.raises(BadShapeError, match=name):
        product.bind({name: torch.zeros(rows, COLUMNS, dtype=torch.int32)})


def test_refused_binding_changes_nothing(
    product: Executable, x: torch.Tensor, weight: torch.Tensor
) -> None:
    """After a refusal, what was bound before still runs."""
    with pytest.raises(BadShapeError):
        product.bind({"x": torch.zeros_like(x), "weight": weight[1:]})
    _check(product, x, weight)


def test_missing_input_is_refused(bench: Bench, x: torch.Tensor) -> None:
    """A run with an input that was never bound names it."""
    executable = bench.load(bench.capture(lambda: {"out": x + x}, {"x": x}))
    with pytest.raises(BadShapeError, match="x"):
        executable.run()


def test_bound_memory_is_kept_alive(
    product: Executable, x: torch.Tensor, weight: torch.Tensor
) -> None:
    """The executable holds what it shares; the caller may let go."""
    expected = x.float() @ weight.float()
    product.bind({"x": x.clone(), "weight": weight.clone()})
    gc.collect()
    # Whatever was freed too early is likely to be handed out, and overwritten, here.
    clutter = [torch.full_like(tensor, 7.0) for tensor in (x, weight) for _ in range(64)]
    result = run(product)["out"]
    assert len(clutter) == 128
    assert_close(result, expected, x.dtype)


def test_closed_executable_does_not_run(product: Executable) -> None:
    """It raises, rather than reading what was freed; closing it twice does no harm."""
    product.run()
    product.close()
    with pytest.raises(NPUError):
        product.run()
    product.close()

"""`wna16_linear` in every weight format that the device lists, against dense float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch.nn.functional import silu

from vllm_npu_runtime.conformance.bench import Bench, run
from vllm_npu_runtime.conformance.oracle import assert_close
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import Capabilities, CompileOptions
from vllm_npu_runtime.ops.packing import GROUP_SIZES, SCALE_DTYPES, WEIGHT_FORMATS, pack

INPUTS, OUTPUTS, ROWS = 256, 48, 5


@pytest.fixture(params=WEIGHT_FORMATS)
def weight_format(request: pytest.FixtureRequest, capabilities: Capabilities) -> str:
    """Each format; those that the device doesn't list are skipped."""
    if request.param not in capabilities.weight_formats:
        pytest.skip(f"the device doesn't list the weight format '{request.param}'")
    return str(request.param)


class Layer:
    """Random packed weights, and what they stand for.

    The dense weight is computed here code by code, by the layout's description.
    """

    def __init__(
        self,
        name: str,
        group: int,
        dtype: torch.dtype,
        scale_dtype: torch.dtype | None = None,
        bias: bool = False,
    ) -> None:
        form = WEIGHT_FORMATS[name]
        self.bits = form.bits
        groups = 1 if group == -1 else INPUTS // group
        codes = torch.randint(0, 1 << form.bits, (OUTPUTS, INPUTS), dtype=torch.uint8)
        largest = 1 << (form.bits - 1)
        scale = (torch.rand(OUTPUTS, groups) + 0.5) * INPUTS**-0.5 / largest
        self.weights = {"weight": pack(codes, form.bits), "scale": scale.to(scale_dtype or dtype)}
        zeros = torch.full((OUTPUTS, groups), float(largest))
        if form.zero_point is None:
            zeros = torch.randint(0, 1 << form.bits, (OUTPUTS, groups), dtype=torch.uint8)
            self.weights["zero_point"] = zeros
        if bias:
            self.weights["bias"] = torch.randn(OUTPUTS).to(dtype)
        spread = INPUTS // groups
        zeros, scale = (each.float() for each in (zeros, self.weights["scale"]))
        centred = codes.float() - zeros.repeat_interleave(spread, 1)
        self.dense = centred * scale.repeat_interleave(spread, 1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The operator, on `[…, INPUTS]`."""
        w = self.weights
        out: torch.Tensor = torch.ops.vllm_npu.wna16_linear(
            x, w["weight"], w["scale"], w.get("zero_point"), w.get("bias"), self.bits
        )
        return out

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        """In float32."""
        out = x.float() @ self.dense.t()
        return out + self.weights["bias"].float() if "bias" in self.weights else out


def _check(bench: Bench, layer: Layer, dtype: torch.dtype) -> None:
    x = torch.randn(ROWS, INPUTS).to(dtype)
    executable = bench.compile(lambda: {"out": layer(x)}, {"x": x}, layer.weights)
    assert_close(run(executable)["out"], layer.expected(x), dtype)


@pytest.mark.parametrize("group", [*GROUP_SIZES, -1])
def test_group_sizes(bench: Bench, finest: torch.dtype, weight_format: str, group: int) -> None:
    """A scale for so many inputs, or for all of an output's."""
    _check(bench, Layer(weight_format, group, finest), finest)


@pytest.mark.parametrize("scale_dtype", SCALE_DTYPES, ids=lambda each: str(each).split(".")[1])
def test_scale_dtypes(
    bench: Bench, finest: torch.dtype, weight_format: str, scale_dtype: torch.dtype
) -> None:
    """Beside activations of another dtype."""
    _check(bench, Layer(weight_format, 64, finest, scale_dtype), finest)


def test_dtypes(bench: Bench, dtype: torch.dtype, weight_format: str) -> None:
    """Activations of every declared dtype, with a bias."""
    _check(bench, Layer(weight_format, 128, dtype, bias=True), dtype)


def test_gated(bench: Bench, finest: torch.dtype, weight_format: str) -> None:
    """Columns of one product, as of a layer's gate and up."""
    layer, x = Layer(weight_format, 32, finest), torch.randn(ROWS, INPUTS).to(finest)

    def gated(product: torch.Tensor) -> torch.Tensor:
        half = OUTPUTS // 2
        return silu(product[..., :half]) * product[..., half:]

    executable = bench.compile(lambda: {"out": gated(layer(x))}, {"x": x}, layer.weights)
    assert_close(run(executable)["out"], gated(layer.expected(x)), finest)


def test_new_weights_take_effect(bench: Bench, finest: torch.dtype, weight_format: str) -> None:
    """After they are bound, as when a checkpoint is loaded anew."""
    x = torch.randn(ROWS, INPUTS).to(finest)
    layer, other = (Layer(weight_format, 64, finest) for _ in range(2))
    executable = bench.compile(lambda: {"out": layer(x)}, {"x": x}, layer.weights)
    assert_close(run(executable)["out"], layer.expected(x), finest)
    executable.bind(other.weights)
    assert_close(run(executable)["out"], other.expected(x), finest)


def test_packed_inputs(bench: Bench, finest: torch.dtype, weight_format: str) -> None:
    """Packed operands that are no weights, and change from run to run."""
    layer, x = Layer(weight_format, 64, finest), torch.randn(ROWS, INPUTS).to(finest)
    executable = bench.compile(lambda: {"out": layer(x)}, {"x": x, **layer.weights})
    assert_close(run(executable)["out"], layer.expected(x), finest)


def test_saved_runs_like_compiled(
    bench: Bench, device: Device, finest: torch.dtype, weight_format: str, tmp_path: Path
) -> None:
    """Weights come from the program that is loaded, not from the files."""
    x = torch.randn(ROWS, INPUTS).to(finest)
    layer, other = (Layer(weight_format, 64, finest) for _ in range(2))

    def product() -> Mapping[str, torch.Tensor]:
        return {"out": layer(x)}

    executable = bench.compile(product, {"x": x}, layer.weights)
    if not device.driver.save(executable, tmp_path):
        pytest.skip("the driver saves no executables")
    program = bench.capture(product, {"x": x}, layer.weights)
    program.weights = {name: other.weights[name] for name in program.weights}
    loaded = device.driver.load(program, device.info.name, tmp_path, CompileOptions())
    loaded.bind({"x": x})
    assert_close(run(loaded)["out"], other.expected(x), finest)
    loaded.close()

"""Programs whose tokens and requests vary from run to run: one for all numbers of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear, silu

from vllm_npu_runtime.conformance.bench import Bench, run
from vllm_npu_runtime.conformance.caches import new_cache
from vllm_npu_runtime.conformance.kernels import Options, PagedKernel, Requests
from vllm_npu_runtime.conformance.oracle import assert_close
from vllm_npu_runtime.conformance.pages import Geometry, Span
from vllm_npu_runtime.conformance.transformer import rms_norm, rotary
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import Capabilities
from vllm_npu_runtime.errors import BadShapeError
from vllm_npu_runtime.extents import Varying

MOST = 64
COUNTS = (1, 2, 7, MOST, 3)

TOKENS = {0: Varying("tokens", MOST)}


@pytest.fixture
def varies(capabilities: Capabilities) -> None:
    """For tests that need a device of varying extents."""
    if capabilities.static_shapes_only:
        pytest.skip("the device declares static shapes only")


def test_static_device_refuses(
    bench: Bench, capabilities: Capabilities, finest: torch.dtype
) -> None:
    """Rather than compiling for the extents of the example."""
    if not capabilities.static_shapes_only:
        pytest.skip("the device declares that extents may vary")
    x = torch.randn(MOST, 32).to(finest)
    program = bench.capture(lambda: {"out": x.tanh()}, {"x": x}, varying={"x": TOKENS})
    with pytest.raises(BadShapeError):
        bench.load(program)


@pytest.mark.usefixtures("varies")
def test_block_of_a_model(bench: Bench, dtype: torch.dtype) -> None:
    """Norm, products, rotary embedding and views, for few and for many tokens."""
    x, positions = torch.randn(MOST, 64).to(dtype), torch.arange(MOST)
    weights = {name: (torch.randn(64, 64) / 8).to(dtype) for name in ("up", "down")}
    weights["norm"] = torch.rand(64).to(dtype)

    def block(
        x: torch.Tensor, positions: torch.Tensor, weights: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        hidden = silu(linear(rms_norm(x, weights["norm"]), weights["up"]))
        turned = rotary(hidden.view(-1, 4, 16), positions).reshape(-1, 64)
        return x + linear(turned, weights["down"])

    executable = bench.compile(
        lambda: {"out": block(x, positions, weights)},
        {"x": x, "positions": positions},
        weights,
        varying={"x": TOKENS, "positions": TOKENS},
    )
    wide = {name: weight.float() for name, weight in weights.items()}
    for count in COUNTS:
        rows, places = x[-count:], positions[:count]
        executable.bind({"x": rows, "positions": places})
        out = run(executable)["out"]
        assert out.shape == (count, 64)
        assert_close(out, block(rows.float(), places, wide), dtype)


@pytest.mark.usefixtures("varies")
def test_result_is_valid_until_the_next_run(bench: Bench, finest: torch.dtype) -> None:
    """Of a smaller run, too, whatever a larger one had left."""
    x = torch.randn(MOST, 8).to(finest)
    executable = bench.compile(lambda: {"out": x * 2}, {"x": x}, varying={"x": TOKENS})
    executable.run()
    executable.bind({"x": x[:3].clone()})
    result = executable.run()[0]
    assert_close(result, x[:3].float() * 2, finest)
    x.zero_()
    assert result.abs().sum() > 0


@pytest.mark.usefixtures("varies")
def test_other_dimensions_are_refused(bench: Bench, finest: torch.dtype) -> None:
    """Only what varies may."""
    x = torch.randn(MOST, 8).to(finest)
    executable = bench.compile(lambda: {"out": x * 2}, {"x": x}, varying={"x": TOKENS})
    with pytest.raises(BadShapeError, match="x"):
        executable.bind({"x": x[:3, :4].contiguous()})


@pytest.mark.usefixtures("varies")
def test_paged_attention(bench: Bench, device: Device, paged: Geometry, dtype: torch.dtype) -> None:
    """Any number of tokens of any number of requests, with padding and without."""
    geometry = replace(paged, tokens=MOST, length=2 * MOST)
    listed = device.capabilities.kv_cache_dtypes
    kv_dtype = dtype if dtype in listed else listed[0]
    cache = new_cache(device, geometry, dtype, kv_dtype)
    requests = Requests(geometry, dtype, kv_dtype, cache)
    rows = {0: Varying("requests", geometry.rows)}
    varying = {
        **dict.fromkeys(("query", "key", "value", "slot_mapping"), TOKENS),
        **dict.fromkeys(("block_table", "seq_lens"), rows),
        "query_start_loc": {0: Varying("requests + 1", geometry.rows + 1)},
    }
    kernel = PagedKernel(bench, requests, Options(), varying=varying)
    kernel.run_exactly(Span(0, 0, 1))
    kernel.run_exactly(Span(0, 1, 2), Span(1, 0, 1))
    kernel.run_exactly(Span(2, 0, 7))
    kernel.run_exactly(Span(2, 7, 1 + MOST), Span(3, 0, 3), Span(1, 1, 2), Span(0, 2, 4))
    kernel.run_exactly(Span(3, 3, 67))
    kernel.run(Span(2, 1 + MOST, 2 + MOST), Span(0, 4, 9))
    kernel.run_exactly(Span(0, 9, 10))

"""What a request doesn't own has no influence on it, whatever number it is.

NaN, infinity and numbers near the largest stand behind a context in its last block, in blocks of
nobody, in block 0, and in padded rows. To weigh them with 0 isn't enough: 0 * NaN is NaN.
"""

import math
from collections.abc import Mapping

import pytest
import torch

from vllm_npu_runtime.conformance import oracle
from vllm_npu_runtime.conformance.bench import Bench, run
from vllm_npu_runtime.conformance.caches import new_cache
from vllm_npu_runtime.conformance.kernels import GatherKernel, Options, PagedKernel, Requests
from vllm_npu_runtime.conformance.pages import Geometry, Span
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import Capabilities

CHUNK = 16


@pytest.fixture(params=[math.nan, math.inf, 1e30], ids=str)
def wild(request: pytest.FixtureRequest) -> float:
    """A number that spoils what it is part of."""
    return float(request.param)


def _kv_dtype(capabilities: Capabilities, dtype: torch.dtype) -> torch.dtype:
    listed = capabilities.kv_cache_dtypes
    return dtype if dtype in listed else listed[0]


@pytest.mark.parametrize("window", [0, 7])
def test_gather(
    bench: Bench,
    gather: Geometry,
    finest: torch.dtype,
    capabilities: Capabilities,
    wild: float,
    window: int,
) -> None:
    """A chunk, and decodes over contexts that end within and at a block's end."""
    kv_dtype = _kv_dtype(capabilities, finest)
    requests = Requests(gather, finest, kv_dtype, gather.new_cache(kv_dtype, wild))
    requests.padding = wild
    requests.write(Span(0, 0, 20))
    requests.write(Span(1, 0, gather.block_size))
    options = Options(sliding_window=window)
    chunk = GatherKernel(bench, requests, options, rows=1, chunk=CHUNK)
    chunk.run(Span(0, 20, 25))
    chunk.run(Span(2, 0, 3))
    size = gather.block_size
    decode = GatherKernel(bench, requests, options, rows=gather.rows, chunk=1)
    decode.run(Span(0, 20, 21), Span(1, size, size + 1), Span(2, 0, 1))


@pytest.mark.parametrize("window", [0, 7])
def test_paged(
    bench: Bench, device: Device, paged: Geometry, finest: torch.dtype, wild: float, window: int
) -> None:
    """Prefill and decode in one batch with padding."""
    kv_dtype = _kv_dtype(device.capabilities, finest)
    cache = new_cache(device, paged, finest, kv_dtype, wild)
    requests = Requests(paged, finest, kv_dtype, cache)
    requests.padding = wild
    requests.write(Span(0, 0, 20))
    requests.write(Span(1, 0, paged.block_size))
    kernel = PagedKernel(bench, requests, Options(sliding_window=window))
    size = paged.block_size
    kernel.run(Span(0, 20, 21), Span(1, size, size + 1), Span(2, 0, 5))
    kernel.run(Span(0, 21, 22), Span(2, 5, 6))


def test_encoder(bench: Bench, finest: torch.dtype, wild: float) -> None:
    """Requests side by side see nothing of one whose values are wild, nor of padding."""
    rows, heads, groups, size = 16, 4, 2, 32
    query = torch.randn(rows, heads, size).to(finest)
    key, value = (torch.randn(rows, groups, size).to(finest) for _ in range(2))
    starts = torch.tensor([0, 5, 9, 12, 12], dtype=torch.int32)
    for spoilt in (slice(5, 9), slice(12, rows)):
        for tensor in (query, key, value):
            tensor[spoilt] = wild

    def attend() -> Mapping[str, torch.Tensor]:
        out = torch.ops.vllm_npu.encoder_attention(query, key, value, starts, size**-0.5)
        return {"out": out}

    inputs = {"query": query, "key": key, "value": value, "starts": starts}
    out = run(bench.compile(attend, inputs))["out"]
    for begin, end in ((0, 5), (9, 12)):
        own = slice(begin, end)
        mask = torch.ones(end - begin, end - begin, dtype=torch.bool)
        expected = oracle.attention(query[own], key[own], value[own], mask, size**-0.5, 0.0)
        oracle.assert_close(out[own], expected, finest)

"""The gather contract: `gather_attention` reads the cache, and the host writes it between runs.

Unwritten slots hold garbage, blocks stand in shuffled order, and batches are padded, in every
test here.
"""

import pytest
import torch

from vllm_npu_runtime.conformance.bench import Bench
from vllm_npu_runtime.conformance.kernels import GatherKernel, Options, Requests
from vllm_npu_runtime.conformance.pages import Geometry, Span
from vllm_npu_runtime.drivers.base import Capabilities

CHUNK = 16


@pytest.fixture
def requests(gather: Geometry, finest: torch.dtype, capabilities: Capabilities) -> Requests:
    """Requests in the finest dtype."""
    return make(gather, finest, capabilities)


def make(geometry: Geometry, dtype: torch.dtype, capabilities: Capabilities) -> Requests:
    """Requests whose cache has the model's dtype, or the best that the device has."""
    listed = capabilities.kv_cache_dtypes
    return Requests(geometry, dtype, dtype if dtype in listed else listed[0])


def prefill_kernel(
    bench: Bench, requests: Requests, options: Options | None = None
) -> GatherKernel:
    """One request, `CHUNK` new tokens."""
    return GatherKernel(bench, requests, options or Options(), rows=1, chunk=CHUNK)


def decode_kernel(bench: Bench, requests: Requests, options: Options | None = None) -> GatherKernel:
    """Every request, one new token."""
    rows = requests.geometry.rows
    return GatherKernel(bench, requests, options or Options(), rows=rows, chunk=1)


def test_prefill(bench: Bench, requests: Requests) -> None:
    """A prompt that fills the chunk, and one that doesn't."""
    kernel = prefill_kernel(bench, requests)
    kernel.run(Span(0, 0, CHUNK))
    kernel.run(Span(1, 0, 5))


def test_chunked_prefill(bench: Bench, requests: Requests) -> None:
    """A prompt in chunks, each over what the host wrote after the one before."""
    kernel = prefill_kernel(bench, requests)
    for begin, end in ((0, 16), (16, 21), (21, 37), (37, 38)):
        kernel.run(Span(0, begin, end))
        requests.write(Span(0, begin, end))


def test_decode(bench: Bench, requests: Requests) -> None:
    """One token of each request, over contexts that end within, at, and behind a block's end."""
    lengths = (1, 15, 16, 37)
    for request, length in enumerate(lengths):
        requests.write(Span(request, 0, length))
    kernel = decode_kernel(bench, requests)
    kernel.run(*(Span(request, length, length + 1) for request, length in enumerate(lengths)))


def test_decodes_over_what_the_host_writes(bench: Bench, requests: Requests) -> None:
    """Step by step, each new token is read back from the cache by the next."""
    requests.write(Span(0, 0, 14))
    requests.write(Span(1, 0, 2))
    kernel = decode_kernel(bench, requests)
    for step in range(5):
        spans = Span(0, 14 + step, 15 + step), Span(1, 2 + step, 3 + step)
        kernel.run(*spans)
        for span in spans:
            requests.write(span)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_query(
    bench: Bench, gather: Geometry, finest: torch.dtype, capabilities: Capabilities, groups: int
) -> None:
    """All, two, or each of the query heads share a key/value head."""
    requests = make(Geometry(gather.block_size, groups=groups), finest, capabilities)
    requests.write(Span(0, 0, 18))
    requests.write(Span(1, 0, 3))
    decode_kernel(bench, requests).run(Span(0, 18, 19), Span(1, 3, 4))


@pytest.mark.parametrize("window", [1, 7, 20])
def test_sliding_window(bench: Bench, requests: Requests, window: int) -> None:
    """A token sees itself and the window - 1 tokens before it, in the chunk and the context."""
    requests.write(Span(0, 0, 30))
    requests.write(Span(1, 0, 4))
    options = Options(sliding_window=window)
    prefill_kernel(bench, requests, options).run(Span(0, 30, 42))
    decode_kernel(bench, requests, options).run(Span(0, 30, 31), Span(1, 4, 5))


def test_soft_cap(bench: Bench, requests: Requests) -> None:
    """Scores are bent to within the cap before the softmax."""
    requests.write(Span(0, 0, 20))
    prefill_kernel(bench, requests, Options(scale=0.5, soft_cap=3.0)).run(Span(0, 20, 29))


def test_scale(bench: Bench, requests: Requests) -> None:
    """The scale is the argument, not one over the square root of the head size."""
    requests.write(Span(0, 0, 20))
    prefill_kernel(bench, requests, Options(scale=0.31)).run(Span(0, 20, 29))


def test_padding_is_finite(bench: Bench, requests: Requests) -> None:
    """Rows without a token give numbers, which no later sum turns into NaN."""
    assert prefill_kernel(bench, requests).run(Span(0, 0, 3)).isfinite().all()
    assert decode_kernel(bench, requests).run().isfinite().all()


def test_cache_is_only_read(bench: Bench, requests: Requests) -> None:
    """The host alone writes it."""
    requests.write(Span(0, 0, 20))
    before = requests.cache.clone()
    prefill_kernel(bench, requests).run(Span(0, 20, 30))
    assert torch.equal(requests.cache, before)


def test_cache_can_be_bound_anew(bench: Bench, requests: Requests) -> None:
    """Another tensor becomes the cache, and is read from then on."""
    kernel = decode_kernel(bench, requests)
    requests.write(Span(0, 0, 5))
    kernel.run(Span(0, 5, 6))
    requests.cache = requests.cache.clone()
    requests.write(Span(0, 5, 9))
    kernel.executable.bind({"cache": requests.cache})
    kernel.run(Span(0, 9, 10))


def test_shared_blocks(bench: Bench, requests: Requests) -> None:
    """Two requests with one prefix read it from the same blocks."""
    size = requests.geometry.block_size
    requests.blocks.tables[1][0] = requests.blocks.tables[0][0]
    requests.key[1, :size], requests.value[1, :size] = (
        requests.key[0, :size],
        requests.value[0, :size],
    )
    requests.write(Span(0, 0, size))
    decode_kernel(bench, requests).run(Span(0, size, size + 1), Span(1, size, size + 1))


def test_dtypes(
    bench: Bench, gather: Geometry, capabilities: Capabilities, dtype: torch.dtype
) -> None:
    """A chunk over a context in every declared dtype."""
    requests = make(gather, dtype, capabilities)
    requests.write(Span(0, 0, 40))
    prefill_kernel(bench, requests).run(Span(0, 40, 51))


def test_cache_dtypes(
    bench: Bench, gather: Geometry, finest: torch.dtype, capabilities: Capabilities
) -> None:
    """A cache in every declared floating dtype, whatever the model's is."""
    for kv_dtype in capabilities.kv_cache_dtypes:
        if not kv_dtype.is_floating_point:
            continue
        requests = Requests(gather, finest, kv_dtype)
        requests.write(Span(0, 0, 10))
        prefill_kernel(bench, requests).run(Span(0, 10, 15))

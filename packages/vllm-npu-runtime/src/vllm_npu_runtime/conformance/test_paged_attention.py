"""The paged contract: `paged_attention` writes the cache and attends over it.

Unwritten slots hold garbage, blocks stand in shuffled order, and batches are padded, in every
test here.
"""

from collections.abc import Sequence

import pytest
import torch

from vllm_npu_runtime.conformance.bench import Bench
from vllm_npu_runtime.conformance.caches import GARBAGE_BYTE, OPAQUE, new_cache
from vllm_npu_runtime.conformance.kernels import Options, PagedKernel, Requests
from vllm_npu_runtime.conformance.pages import GARBAGE, Geometry, Span
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import Capabilities, KVBlock
from vllm_npu_runtime.errors import ConfigurationError, UnsupportedOperatorError


@pytest.fixture
def requests(device: Device, paged: Geometry, finest: torch.dtype) -> Requests:
    """Requests in the finest dtype."""
    return make(device, paged, finest)


def make(
    device: Device, geometry: Geometry, dtype: torch.dtype, kv_dtype: torch.dtype | None = None
) -> Requests:
    """Requests whose cache has a dtype of its own, the model's, or the best of the device."""
    listed = device.capabilities.kv_cache_dtypes
    kv_dtype = kv_dtype or (dtype if dtype in listed else listed[0])
    return Requests(geometry, dtype, kv_dtype, new_cache(device, geometry, dtype, kv_dtype))


def test_prefill(bench: Bench, requests: Requests) -> None:
    """A prompt that fills the bucket, and one that doesn't."""
    kernel = PagedKernel(bench, requests, Options())
    kernel.run(Span(0, 0, 16))
    kernel.run(Span(1, 0, 5))


def test_decode(bench: Bench, requests: Requests) -> None:
    """One token of each request, over contexts that end within, at, and behind a block's end."""
    lengths = (1, 15, 16, 37)
    for request, length in enumerate(lengths):
        requests.write(Span(request, 0, length))
    kernel = PagedKernel(bench, requests, Options())
    kernel.run(*(Span(request, length, length + 1) for request, length in enumerate(lengths)))


def test_mixed(bench: Bench, requests: Requests) -> None:
    """Prefill and decode in one batch, in any order."""
    requests.write(Span(0, 0, 20))
    requests.write(Span(2, 0, 3))
    kernel = PagedKernel(bench, requests, Options())
    kernel.run(Span(0, 20, 21), Span(1, 0, 7), Span(2, 3, 4), Span(3, 0, 2))
    kernel.run(Span(3, 2, 9), Span(0, 21, 22))


def test_chunked_prefill(bench: Bench, requests: Requests) -> None:
    """A prompt in chunks, each over what the runs before it wrote."""
    kernel = PagedKernel(bench, requests, Options())
    for begin, end in ((0, 16), (16, 21), (21, 37), (37, 38)):
        kernel.run(Span(0, begin, end))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_query(
    bench: Bench, device: Device, paged: Geometry, finest: torch.dtype, groups: int
) -> None:
    """All, two, or each of the query heads share a key/value head."""
    sizes = Geometry(paged.block_size, groups=groups)
    requests = make(device, sizes, finest)
    requests.write(Span(1, 0, 18))
    PagedKernel(bench, requests, Options()).run(Span(0, 0, 6), Span(1, 18, 19))


@pytest.mark.parametrize("window", [1, 7, 20])
def test_sliding_window(bench: Bench, requests: Requests, window: int) -> None:
    """A token sees itself and the window - 1 tokens before it, across chunks and blocks."""
    requests.write(Span(0, 0, 30))
    requests.write(Span(1, 0, 30))
    kernel = PagedKernel(bench, requests, Options(sliding_window=window))
    kernel.run(Span(0, 30, 31), Span(1, 30, 42), Span(2, 0, 3))


def test_soft_cap(bench: Bench, requests: Requests, capabilities: Capabilities) -> None:
    """Scores are bent to within the cap before the softmax; a device that can't says so."""
    options = Options(scale=0.5, soft_cap=3.0)
    if not capabilities.soft_cap:
        with pytest.raises(UnsupportedOperatorError, match="soft"):
            PagedKernel(bench, requests, options)
        return
    requests.write(Span(0, 0, 20))
    kernel = PagedKernel(bench, requests, options)
    kernel.run(Span(0, 20, 21), Span(1, 0, 9))


def test_scale(bench: Bench, requests: Requests) -> None:
    """The scale is the argument, not one over the square root of the head size."""
    requests.write(Span(0, 0, 20))
    PagedKernel(bench, requests, Options(scale=0.31)).run(Span(0, 20, 21), Span(1, 0, 9))


def test_padding_is_finite(bench: Bench, requests: Requests) -> None:
    """Rows without a token give numbers, which no later sum turns into NaN."""
    kernel = PagedKernel(bench, requests, Options())
    assert kernel.run(Span(0, 0, 3)).isfinite().all()
    assert kernel.run().isfinite().all()


def test_other_tokens_stay(bench: Bench, requests: Requests) -> None:
    """A run with padding leaves what earlier runs wrote, in its own requests and in others."""
    requests.write(Span(0, 0, 15))
    requests.write(Span(1, 0, requests.geometry.block_size))
    requests.write(Span(2, 0, 1))
    kernel = PagedKernel(bench, requests, Options())
    kernel.run(Span(0, 15, 17), Span(3, 0, 3))
    kernel.run()
    size = requests.geometry.block_size
    kernel.run(Span(0, 17, 18), Span(1, size, size + 1), Span(2, 1, 2), Span(3, 3, 4))


def test_only_new_tokens_are_written(bench: Bench, requests: Requests) -> None:
    """New keys and values are in their slots, and padding went nowhere but to block 0."""
    if requests.opaque:
        pytest.skip("only the driver knows where in its own layout a token lies")
    kernel = PagedKernel(bench, requests, Options())
    kernel.run(Span(0, 0, 3), Span(1, 0, 2))
    expected = torch.full_like(requests.cache, GARBAGE)
    written, requests.cache = requests.cache, expected
    requests.write(Span(0, 0, 3))
    requests.write(Span(1, 0, 2))
    torch.testing.assert_close(written[1:], expected[1:])


def test_cache_can_be_bound_anew(bench: Bench, requests: Requests) -> None:
    """Another tensor becomes the cache, and is read and written from then on."""
    kernel = PagedKernel(bench, requests, Options())
    kernel.run(Span(0, 0, 5))
    requests.cache = requests.cache.clone()
    kernel.executable.bind({"cache": requests.cache})
    kernel.run(Span(0, 5, 9), Span(1, 0, 3))
    kernel.run(Span(0, 9, 10), Span(1, 3, 4))


def test_shared_blocks(bench: Bench, requests: Requests) -> None:
    """Two requests with one prefix read it from the same blocks."""
    size = requests.geometry.block_size
    requests.blocks.tables[1][0] = requests.blocks.tables[0][0]
    requests.key[1, :size], requests.value[1, :size] = (
        requests.key[0, :size],
        requests.value[0, :size],
    )
    requests.write(Span(0, 0, size))
    kernel = PagedKernel(bench, requests, Options())
    kernel.run(Span(0, size, size + 4), Span(1, size, size + 3))


def test_blocks_moved_part_by_part(
    bench: Bench, device: Device, paged: Geometry, finest: torch.dtype, capabilities: Capabilities
) -> None:
    """A request goes on in other blocks, to which its own were copied as connectors move KV."""
    for kv_dtype in capabilities.kv_cache_dtypes:
        if not kv_dtype.is_floating_point and capabilities.kv_layout != OPAQUE:
            continue
        try:
            requests = make(device, paged, finest, kv_dtype)
        except ConfigurationError:
            continue  # That is refused in `test_cache_dtypes`.
        requests.write(Span(0, 0, 40))
        kernel = PagedKernel(bench, requests, Options())
        kernel.run(Span(0, 40, 41))
        tables = requests.blocks.tables
        block = KVBlock(paged.groups, paged.size, paged.block_size, kv_dtype)
        parts = device.driver.kv_block_parts(device.info.name, block, finest, {})
        assert sum(parts) == device.driver.kv_block_bytes(device.info.name, block, finest, {})
        _move(requests.cache, parts, tables[0], tables[1])
        tables[0], tables[1] = tables[1], tables[0]
        kernel.run(Span(0, 41, 42), Span(1, 0, 3))


def test_reads_what_another_layer_wrote(bench: Bench, requests: Requests) -> None:
    """Without keys and values nothing is written: the cache has them already.

    The host wrote them. Where it can't, an attention before this one in the program did.
    """
    requests.write(Span(0, 0, 20 if requests.opaque else 21))
    if not requests.opaque:
        requests.write(Span(1, 0, 5))
    before = requests.cache.clone()
    kernel = PagedKernel(bench, requests, Options(), writes=False)
    kernel.run(Span(0, 20, 21), Span(1, 0, 5))
    assert requests.opaque or torch.equal(requests.cache, before)


def test_dtypes(bench: Bench, device: Device, paged: Geometry, dtype: torch.dtype) -> None:
    """A mixed batch in every declared dtype."""
    requests = make(device, paged, dtype)
    requests.write(Span(0, 0, 40))
    PagedKernel(bench, requests, Options()).run(Span(0, 40, 41), Span(1, 0, 11))


def test_cache_dtypes(
    bench: Bench, device: Device, paged: Geometry, finest: torch.dtype, capabilities: Capabilities
) -> None:
    """A cache in every declared dtype, whatever the model's is.

    The host can't write quantized numbers, so of those only an opaque cache is tried. With such
    a cache a model's dtype may rule out some of the cache's, but none is ruled out by them all.
    """
    opaque = capabilities.kv_layout == OPAQUE
    for kv_dtype in capabilities.kv_cache_dtypes:
        if not kv_dtype.is_floating_point and not opaque:
            continue
        tried = 0
        for dtype in capabilities.dtypes if opaque else (finest,):
            try:
                requests = make(device, paged, dtype, kv_dtype)
            except ConfigurationError:
                _check_refused(bench, device, paged, dtype, kv_dtype)
                continue
            tried += 1
            requests.write(Span(0, 0, 10))
            PagedKernel(bench, requests, Options()).run(Span(0, 10, 11), Span(1, 0, 4))
        assert tried, kv_dtype


def _check_refused(
    bench: Bench, device: Device, paged: Geometry, dtype: torch.dtype, kv_dtype: torch.dtype
) -> None:
    """A cache that has no size for a model can't be compiled for it either."""
    cache = new_cache(device, paged, dtype, dtype)
    with pytest.raises(ConfigurationError):
        PagedKernel(bench, Requests(paged, dtype, kv_dtype, cache), Options())


def _move(cache: torch.Tensor, parts: Sequence[int], source: list[int], target: list[int]) -> None:
    """Copy blocks, and leave garbage where they were."""
    flat, blocks = cache.view(torch.uint8).view(-1), len(cache)
    for size in parts:
        part, flat = flat[: blocks * size].view(blocks, size), flat[blocks * size :]
        part[target] = part[source]
        part[source] = GARBAGE_BYTE

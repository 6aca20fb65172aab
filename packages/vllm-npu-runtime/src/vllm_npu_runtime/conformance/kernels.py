"""One attention operator as a program, fed with requests whose dense values are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from vllm_npu_runtime.conformance import oracle
from vllm_npu_runtime.conformance.bench import Bench
from vllm_npu_runtime.conformance.pages import Blocks, Geometry, Span, write
from vllm_npu_runtime.drivers.base import CompileOptions
from vllm_npu_runtime.extents import Varying


@dataclass(frozen=True)
class Options:
    """Scalar arguments of an attention operator."""

    scale: float = 32**-0.5
    sliding_window: int = 0
    soft_cap: float = 0.0


class Requests:
    """Queries, keys and values of some requests, dense, and the cache that they go to.

    Args:
        geometry: sizes.
        dtype: of queries, keys and values.
        kv_dtype: of the cache.
        cache: in the layout of the device that keeps it; None: a new one in the layout "NHC".

    Attributes:
        opaque: only the device can write the cache.
        waiting: spans for the device to write, as the host can't.
        padding: what padded rows bring; None: ordinary numbers.
    """

    def __init__(
        self,
        geometry: Geometry,
        dtype: torch.dtype,
        kv_dtype: torch.dtype,
        cache: torch.Tensor | None = None,
    ) -> None:
        self.geometry = geometry
        self.dtypes = (dtype, kv_dtype)
        self.blocks = Blocks(geometry)
        self.cache = geometry.new_cache(kv_dtype) if cache is None else cache
        self.opaque = self.cache.dim() == 2
        self.waiting: list[Span] = []
        self.padding: float | None = None
        sizes = (geometry.rows, geometry.length)
        self.query = torch.randn(*sizes, geometry.heads, geometry.size, dtype=dtype)
        self.key = torch.randn(*sizes, geometry.groups, geometry.size, dtype=dtype)
        self.value = torch.randn(*sizes, geometry.groups, geometry.size, dtype=dtype)

    def write(self, span: Span) -> None:
        """Write a span's keys and values, as an earlier run or the host would have.

        An opaque cache gets them from the next kernel, in runs of its own.
        """
        if self.opaque:
            self.waiting.append(span)
            return
        rows = slice(span.begin, span.end)
        key, value = self.key[span.request, rows], self.value[span.request, rows]
        write(self.cache, self.blocks.slots(span), key, value)

    def new(self, spans: Sequence[Span], tokens: int) -> dict[str, torch.Tensor]:
        """Query, key and value of the spans, one behind the other, padded to `tokens` rows."""
        padded = {}
        for name in ("query", "key", "value"):
            dense = getattr(self, name)
            rows = [dense[request, begin:end] for request, begin, end in spans]
            count = tokens - sum(map(len, rows))
            behind = torch.randn(count, *dense.shape[2:])
            if self.padding is not None:
                behind.fill_(self.padding)
            padded[name] = torch.cat([*rows, behind.to(dense.dtype)])
        return padded

    def expected(self, span: Span, options: Options) -> torch.Tensor:
        """What attention gives for a span, `[span, heads, size]`."""
        request, begin, end = span
        mask = oracle.causal_mask(begin, end - begin, options.sliding_window)
        return oracle.attention(
            self.query[request, begin:end],
            self.key[request, :end],
            self.value[request, :end],
            mask,
            options.scale,
            options.soft_cap,
        )

    def check(self, spans: Sequence[Span], rows: Sequence[torch.Tensor], options: Options) -> None:
        """Compare what a run gave for each span with what is expected."""
        for span, actual in zip(spans, rows, strict=True):
            oracle.assert_close(actual, self.expected(span, options), *self.dtypes)


class PagedKernel:
    """`paged_attention` over one layer's cache.

    Args:
        bench: compiles it.
        requests: what it runs on.
        options: scalar arguments.
        writes: whether it is given keys and values. If not, the cache has them already: from
            the host or, where the layout is the driver's own, from another attention before it
            in the program.
        varying: by an input's name, its dimensions whose extent varies.
    """

    def __init__(
        self,
        bench: Bench,
        requests: Requests,
        options: Options,
        writes: bool = True,
        varying: Mapping[str, Mapping[int, Varying]] | None = None,
    ) -> None:
        self._requests = requests
        self._options = options
        self._writes = writes
        cache = requests.cache
        given = self._inputs([])

        def attention(key: torch.Tensor | None, value: torch.Tensor | None) -> torch.Tensor:
            out: torch.Tensor = torch.ops.vllm_npu.paged_attention(
                given["query"],
                key,
                value,
                cache,
                given["block_table"],
                given["slot_mapping"],
                given["query_start_loc"],
                given["seq_lens"],
                options.scale,
                options.sliding_window,
                options.soft_cap,
            )
            return out

        def attend() -> Mapping[str, torch.Tensor]:
            first = attention(given.get("key"), given.get("value"))
            if writes or not requests.opaque:
                return {"out": first}
            return {"first": first, "out": attention(None, None)}

        self.executable = bench.compile(
            attend,
            given,
            caches={"cache": cache},
            varying={name: varying[name] for name in given if name in varying} if varying else {},
            options=CompileOptions(kv_cache_dtype=requests.dtypes[1]),
        )
        self._out = [each.name for each in self.executable.program.outputs].index("out")

    def run(self, *spans: Span) -> torch.Tensor:
        """Run spans in one batch, check what comes out for each, and return all rows."""
        self._catch_up()
        return self._run(spans)

    def run_exactly(self, *spans: Span) -> torch.Tensor:
        """As `run`, without padding: the program's tokens and requests vary."""
        self._catch_up()
        return self._run(spans, padded=False)

    def _catch_up(self) -> None:
        """Write what waits to be written, in runs that fit."""
        waiting, self._requests.waiting = self._requests.waiting, []
        tokens = self._requests.geometry.tokens
        for request, begin, end in waiting:
            for start in range(begin, end, tokens):
                self._run([Span(request, start, min(start + tokens, end))])

    def _run(self, spans: Sequence[Span], padded: bool = True) -> torch.Tensor:
        self.executable.bind(self._inputs(spans, padded))
        out = self.executable.run()[self._out].clone()
        real = out[: sum(span.end - span.begin for span in spans)]
        sizes = [span.end - span.begin for span in spans]
        self._requests.check(spans, real.split(sizes), self._options)
        return out

    def _inputs(self, spans: Sequence[Span], padded: bool = True) -> dict[str, torch.Tensor]:
        requests = self._requests
        sizes = requests.geometry
        if not padded:
            count = sum(span.end - span.begin for span in spans)
            sizes = replace(sizes, tokens=count, rows=len(spans))
        inputs = requests.new(spans, sizes.tokens)
        if not self._writes and not requests.opaque:
            del inputs["key"], inputs["value"]
        return {**inputs, **requests.blocks.paged_inputs(spans, sizes)}


class GatherKernel:
    """`gather_attention` over one layer's cache.

    Args:
        bench: compiles it.
        requests: what it runs on.
        options: scalar arguments.
        rows: requests in one run.
        chunk: new tokens of each.
    """

    def __init__(
        self, bench: Bench, requests: Requests, options: Options, rows: int, chunk: int
    ) -> None:
        self._requests = requests
        self._options = options
        self._rows = rows
        self._chunk = chunk
        cache = requests.cache
        given = self._inputs([])

        def attend() -> Mapping[str, torch.Tensor]:
            out = torch.ops.vllm_npu.gather_attention(
                given["query"],
                given["key"],
                given["value"],
                cache,
                given["block_table"],
                given["context_lens"],
                options.scale,
                options.sliding_window,
                options.soft_cap,
            )
            return {"out": out}

        self.executable = bench.compile(attend, given, caches={"cache": cache})

    def run(self, *spans: Span) -> torch.Tensor:
        """Run spans in one batch, check what comes out for each, and return all rows."""
        self.executable.bind(self._inputs(spans))
        out = self.executable.run()[0].clone()
        chunks = out.split(self._chunk)
        real = [chunk[: span.end - span.begin] for chunk, span in zip(chunks, spans, strict=False)]
        self._requests.check(spans, real, self._options)
        return out

    def _inputs(self, spans: Sequence[Span]) -> dict[str, torch.Tensor]:
        requests = self._requests
        each = [requests.new([span], self._chunk) for span in spans]
        each += [requests.new([], self._chunk) for _ in range(self._rows - len(spans))]
        joined = {name: torch.cat([row[name] for row in each]) for name in each[0]}
        return {**joined, **requests.blocks.gather_inputs(spans, self._rows)}

"""Twenty steps of a transformer under either contract, teacher-forced, as the engine runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from vllm_npu_runtime.conformance.bench import Bench
from vllm_npu_runtime.conformance.caches import new_cache
from vllm_npu_runtime.conformance.pages import Blocks, Span, write
from vllm_npu_runtime.conformance.transformer import LAYERS, VOCABULARY, Transformer
from vllm_npu_runtime.drivers.base import CompileOptions, KVContract

STEPS = 20
PROMPTS = (19, 3, 11)
CHUNK = 8

Logits = list[list[torch.Tensor]]
"""By request, one row for each of its tokens that was computed."""


class Generation:
    """Requests that grow by a token a step; which tokens is decided beforehand.

    Args:
        bench: compiles the model's programs.
        model: the model.
        kv_dtype: of the caches.
        contract: who writes them.
    """

    def __init__(
        self, bench: Bench, model: Transformer, kv_dtype: torch.dtype, contract: KVContract
    ) -> None:
        self._bench = bench
        self._model = model
        self._contract = contract
        self._options = CompileOptions(kv_cache_dtype=kv_dtype)
        self._blocks = Blocks(model.geometry)
        self._caches = {f"kv.{i}": self._new_cache(kv_dtype) for i in range(LAYERS)}
        draw = torch.Generator().manual_seed(1)
        self.tokens = [
            torch.randint(VOCABULARY, (prompt + STEPS,), generator=draw) for prompt in PROMPTS
        ]

    def logits(self) -> Logits:
        """Those of every token that was computed."""
        return self._paged() if self._contract is KVContract.PAGED else self._gather()

    def _new_cache(self, kv_dtype: torch.dtype) -> torch.Tensor:
        if self._contract is KVContract.GATHER:
            return self._model.geometry.new_cache(kv_dtype)
        dtype = self._model.weights["norm"].dtype
        return new_cache(self._bench.device, self._model.geometry, dtype, kv_dtype)

    def _paged(self) -> Logits:
        """Prefill and decode mixed in buckets of tokens; the program writes the caches."""
        geometry, model, caches = self._model.geometry, self._model, self._caches
        given = {**self._rows([], geometry.tokens), **self._blocks.paged_inputs([])}

        def forward() -> Mapping[str, torch.Tensor]:
            def attend(
                layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
            ) -> torch.Tensor:
                return torch.ops.vllm_npu.paged_attention(
                    query,
                    key,
                    value,
                    caches[f"kv.{layer}"],
                    given["block_table"],
                    given["slot_mapping"],
                    given["query_start_loc"],
                    given["seq_lens"],
                    geometry.size**-0.5,
                )

            return {"logits": model(given["tokens"], given["positions"], attend)}

        executable = self._bench.compile(
            forward, given, model.weights, caches, options=self._options
        )
        logits: Logits = [[] for _ in PROMPTS]
        for _ in range(STEPS):
            budget, spans = geometry.tokens, []
            for request, prompt in enumerate(PROMPTS):
                done = len(logits[request])
                count = min(max(1, prompt - done), budget)
                budget -= count
                if count:
                    spans.append(Span(request, done, done + count))
            executable.bind(
                {**self._rows(spans, geometry.tokens), **self._blocks.paged_inputs(spans)}
            )
            _collect(logits, spans, executable.run()[0])
        return logits

    def _gather(self) -> Logits:
        """A prefill chunk of one request, or a decode of all; the host writes the caches."""
        prefill = self._gather_program(1, CHUNK)
        decode = self._gather_program(self._model.geometry.rows, 1)
        logits: Logits = [[] for _ in PROMPTS]
        for _ in range(STEPS):
            waiting = [
                Span(request, len(logits[request]), min(prompt, len(logits[request]) + CHUNK))
                for request, prompt in enumerate(PROMPTS)
                if len(logits[request]) < prompt
            ]
            if waiting:
                self._gather_step(prefill, waiting[:1], 1, CHUNK, logits)
            else:
                spans = [Span(i, len(rows), len(rows) + 1) for i, rows in enumerate(logits)]
                self._gather_step(decode, spans, self._model.geometry.rows, 1, logits)
        return logits

    def _gather_program(self, rows: int, chunk: int):  # type: ignore[no-untyped-def]
        model, caches = self._model, self._caches
        given = {**self._rows([], rows * chunk), **self._blocks.gather_inputs([], rows)}

        def forward() -> Mapping[str, torch.Tensor]:
            new: dict[str, torch.Tensor] = {}

            def attend(
                layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
            ) -> torch.Tensor:
                new[f"key.{layer}"], new[f"value.{layer}"] = key, value
                return torch.ops.vllm_npu.gather_attention(
                    query,
                    key,
                    value,
                    caches[f"kv.{layer}"],
                    given["block_table"],
                    given["context_lens"],
                    model.geometry.size**-0.5,
                )

            logits = model(given["tokens"], given["positions"], attend)
            return {"logits": logits, **new}

        return self._bench.compile(forward, given, model.weights, caches)

    def _gather_step(self, executable, spans, rows, chunk, logits) -> None:  # type: ignore[no-untyped-def]
        inputs = self._rows(spans, rows * chunk)
        executable.bind({**inputs, **self._blocks.gather_inputs(spans, rows)})
        names = [output.name for output in executable.program.outputs]
        outputs = dict(zip(names, executable.run(), strict=True))
        slots = [slot for span in spans for slot in self._blocks.slots(span)]
        for layer in range(LAYERS):
            key, value = outputs[f"key.{layer}"], outputs[f"value.{layer}"]
            write(self._caches[f"kv.{layer}"], slots, key, value)
        _collect(logits, spans, outputs["logits"])

    def _rows(self, spans: Sequence[Span], count: int) -> dict[str, torch.Tensor]:
        """Tokens and positions of the spans, one behind the other, padded to `count`."""
        tokens = [self.tokens[request][begin:end] for request, begin, end in spans]
        positions = [torch.arange(begin, end) for _, begin, end in spans]
        padding = torch.zeros(count - sum(map(len, tokens)), dtype=torch.int64)
        return {
            "tokens": torch.cat([*tokens, padding]),
            "positions": torch.cat([*positions, padding]),
        }


def _collect(logits: Logits, spans: Sequence[Span], rows: torch.Tensor) -> None:
    begin = 0
    for span in spans:
        end = begin + span.end - span.begin
        logits[span.request] += list(rows[begin:end].clone())
        begin = end

"""The graph executor: runs a step's batch through compiled graphs and gives back its rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from vllm_npu_platform.graph.buffers import Buffers, InputSpec, LayerGroup
from vllm_npu_platform.graph.plan import Batch, Run, plan
from vllm_npu_platform.graph.step_graph import HIDDEN, KEY, VALUE, StepGraph
from vllm_npu_platform.stats import counters as names
from vllm_npu_runtime.errors import CaptureError, NPUError
from vllm_npu_runtime.ops import paged_attention
from vllm_npu_runtime.traces import Traces

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from vllm_npu_platform.attention.metadata import PagedMetadata
    from vllm_npu_platform.graph.compiler import Compiler
    from vllm_npu_platform.graph.shapes import Shape, Shapes
    from vllm_npu_platform.stats.counters import Counters

_logger = logging.getLogger("vllm.npu")


class GraphExecutor:
    """All graphs of one model.

    Args:
        model: vLLM's model.
        inputs: its tensor inputs.
        groups: its attention layers, by block table.
        shapes: the buckets.
        vllm_config: of the engine.
        compiler: makes executables for the device.
        counters: what is counted.
        prefix: tells a draft model's counters from the model's.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        inputs: Sequence[InputSpec],
        groups: Sequence[LayerGroup],
        shapes: Shapes,
        vllm_config: VllmConfig,
        compiler: Compiler,
        counters: Counters,
        prefix: str = "",
    ) -> None:
        self.shapes = shapes
        self.prefix = prefix
        self._model = model
        self._groups = tuple(groups)
        self._vllm_config = vllm_config
        self._compiler = compiler
        self._counters = counters
        self._graphs: dict[Shape, StepGraph] = {}
        self._traces = Traces()
        self._sealed = False
        self._inputs = {spec.name for spec in inputs}
        tokens = max(shape.tokens for shape in shapes)
        requests = max(shape.requests for shape in shapes)
        self._buffers = Buffers(inputs, groups, tokens, requests)

    def __call__(
        self, inputs: Mapping[str, torch.Tensor], metadata: Mapping[str, PagedMetadata]
    ) -> dict[str, torch.Tensor]:
        """Run one step.

        Args:
            inputs: the model's inputs, `[tokens, *tail]`, by name.
            metadata: by attention layer.

        Returns:
            Hidden states, and auxiliary ones if the model gives them, `[tokens, hidden]`, by
            name. The caller owns them.

        Raises:
            CaptureError: an input that the graphs don't take, and would ignore.
            NPUError: in strict mode, a graph that warm-up has not compiled.
            DeviceError: the device failed.
        """
        if unknown := inputs.keys() - self._inputs:
            raise CaptureError(
                f"The model is given {', '.join(sorted(unknown))}, which its graphs don't take."
            )
        batch = self._batch(metadata)
        results: dict[str, torch.Tensor] = {}
        for run in plan(batch, self.shapes):
            graph = self._graph(run.shape)
            graph.fit(run.num_tokens, run.num_requests)
            graph.views.fill(run, batch, inputs)
            outputs, seconds = graph.run()
            self._counters.run(self.prefix, run, seconds)
            self._scatter(run, batch, outputs)
            _collect(results, run, batch.num_tokens, outputs)
        return results

    def compile(self, shape: Shape) -> None:
        """Begin, and wait; see `begin`."""
        self.begin(shape)()

    def begin(self, shape: Shape) -> Callable[[], None]:
        """Begin to compile a graph.

        Returns:
            Waits for the compiler, and runs the graph once on nothing but padding.
        """
        begin = time.perf_counter()
        made = StepGraph.begin(
            self._model,
            self._buffers,
            shape,
            self._vllm_config,
            self._compiler,
            f"{self.prefix}{shape}",
            self._traces,
        )
        self._counters.add(names.COMPILE_SECONDS, time.perf_counter() - begin)
        return partial(self._finish, shape, made)

    def _finish(self, shape: Shape, made: Callable[[], StepGraph]) -> None:
        begin = time.perf_counter()
        graph = made()
        graph.fit(1, 1)  # a graph that takes any number of tokens shows with one that it runs
        graph.views.clear()
        graph.run()
        self._graphs[shape] = graph
        self._counters.add(names.LOADED if graph.loaded else names.COMPILED)
        self._counters.add(names.COMPILE_SECONDS, time.perf_counter() - begin)

    @property
    def at_once(self) -> int:
        """See `Compiler.at_once`."""
        return self._compiler.at_once

    def seal(self) -> None:
        """Warm-up is over: what is compiled from now on comes too late."""
        self._sealed = True
        self._traces = Traces()

    def rebind_weights(self) -> None:
        """Weights were loaded anew."""
        for graph in self._graphs.values():
            graph.rebind_weights(self._model)

    @property
    def host_operators(self) -> set[str]:
        """Operators that run on the host, over all graphs."""
        return {name for graph in self._graphs.values() for name in graph.host_operators}

    @property
    def memory(self) -> int:
        """Bytes of device memory that the graphs hold."""
        return sum(graph.memory for graph in self._graphs.values())

    def close(self) -> None:
        """Free all graphs."""
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()

    def _graph(self, shape: Shape) -> StepGraph:
        if shape not in self._graphs:
            if self._sealed:
                self._complain(shape)
            self.compile(shape)
        return self._graphs[shape]

    def _complain(self, shape: Shape) -> None:
        self._counters.add(names.LATE)
        line = (
            f"Graph {self.prefix}{shape} is compiled after warm-up, while requests wait. "
            "Warm-up should have compiled it: set VLLM_NPU_WARM_UP=1."
        )
        if self._compiler.target.settings.strict:
            raise NPUError(f"{line} Strict mode makes this an error (VLLM_NPU_STRICT=0 allows it).")
        _logger.warning(line)

    def _batch(self, metadata: Mapping[str, PagedMetadata]) -> Batch:
        steps = [metadata[group.layers[0]] for group in self._groups]
        first = steps[0]
        requests = first.seq_lens.shape[0]
        return Batch(
            query_start_loc=first.query_start_loc.numpy()[: requests + 1],
            seq_lens=first.seq_lens.numpy(),
            block_tables=tuple(step.block_table.numpy()[:requests] for step in steps),
            slot_mappings=tuple(step.slot_mapping.numpy() for step in steps),
            block_sizes=tuple(group.block_size for group in self._groups),
        )

    def _scatter(self, run: Run, batch: Batch, outputs: Mapping[str, torch.Tensor]) -> None:
        """Write a gather run's new keys and values into the cache."""
        layers = self._vllm_config.compilation_config.static_forward_context
        for group, step_slots in zip(self._groups, batch.slot_mappings, strict=True):
            slots = None
            for layer in group.layers:
                if KEY + layer not in outputs:
                    continue
                if slots is None:
                    slots = torch.from_numpy(step_slots[run.tokens])
                key, value = outputs[KEY + layer], outputs[VALUE + layer]
                count = run.num_tokens
                paged_attention.write(layers[layer].kv_cache, key[:count], value[:count], slots)


def _collect(
    results: dict[str, torch.Tensor], run: Run, tokens: int, outputs: Mapping[str, torch.Tensor]
) -> None:
    """Copy a run's real rows out, as the next run overwrites them."""
    for name, tensor in outputs.items():
        if not name.startswith((HIDDEN, "aux_")):
            continue
        rows = tensor[: run.num_tokens]
        if run.num_tokens == tokens:
            results[name] = rows.clone()
            continue
        if name not in results:
            results[name] = tensor.new_empty(tokens, *tensor.shape[1:])
        results[name][run.tokens] = rows

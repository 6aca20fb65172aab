"""The model's head: hidden states to logits, on the device."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from vllm_npu_platform.stats import counters as names
from vllm_npu_runtime.capture import Named, module_tensors
from vllm_npu_runtime.errors import CaptureError
from vllm_npu_runtime.extents import Varying
from vllm_npu_runtime.program import Kind

if TYPE_CHECKING:
    from vllm_npu_platform.graph.compiler import Compiler
    from vllm_npu_platform.stats.counters import Counters
    from vllm_npu_runtime.drivers.base import Executable

_logger = logging.getLogger("vllm.npu")

NAME = "logits"
INPUT = "hidden_states"


class LogitsGraph:
    """`compute_logits` of a model as one graph for any number of rows; stands in its place.

    Args:
        name: of the graph.
        model: vLLM's model.
        hidden: hidden states of the most rows that there may be, `[rows, hidden]`, in the model's
            dtype or that of the device's arithmetic; its memory is what the graph reads.
        compiler: of the engine's graphs.
        counters: what is counted.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        hidden: torch.Tensor,
        compiler: Compiler,
        counters: Counters,
    ) -> None:
        self.name = name
        self._model = model
        self._head: Callable[[torch.Tensor], torch.Tensor] = model.compute_logits  # type: ignore[assignment]
        self._dtype = next(model.parameters()).dtype
        self._buffer = hidden
        self._compiler = compiler
        self._counters = counters
        self._executable: Executable | None = None
        self._bound: torch.Tensor | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32 logits `[rows, vocabulary]` of states `[rows, hidden]`. The caller owns them."""
        if self._executable is None:
            return self._head(hidden.to(self._dtype)).float()
        rows = hidden.shape[0]
        if self._bound is None or self._bound.shape[0] != rows:
            self._bound = self._buffer[:rows]
            self._executable.bind({INPUT: self._bound})
        self._bound.copy_(hidden)
        begin = time.perf_counter()
        (logits,) = self._executable.run()
        self._counters.add(names.DEVICE_SECONDS, time.perf_counter() - begin)
        return logits.clone()

    def compile(self) -> None:
        """Begin, and wait; see `begin`."""
        self.begin()()

    def begin(self) -> Callable[[], None]:
        """Begin to make the graph.

        A head that can't be captured stays on the host, and the log says so.

        Returns:
            Waits for the compiler, and runs the graph once.
        """
        begin = time.perf_counter()
        head, hidden, dtype = self._head, self._buffer, self._dtype

        def function() -> Mapping[str, torch.Tensor]:
            return {NAME: head(hidden.to(dtype)).float()}  # what vLLM's sampler works in

        given = Named(INPUT, Kind.INPUT, hidden, {0: Varying("rows", hidden.shape[0])})
        try:
            made = self._compiler.begin(self.name, function, [given], self._model)
        except CaptureError as error:
            _logger.warning("Logits are computed on the host: %s", error)
            return lambda: None
        self._counters.add(names.COMPILE_SECONDS, time.perf_counter() - begin)
        return partial(self._finish, made)

    def _finish(self, made: Callable[[], tuple[Executable, bool]]) -> None:
        begin = time.perf_counter()
        self._executable, loaded = made()
        hidden = self._buffer
        self(hidden[:1])
        self._counters.add(names.LOADED if loaded else names.COMPILED)
        self._counters.add(names.COMPILE_SECONDS, time.perf_counter() - begin)

    def rebind_weights(self) -> None:
        """Use the model's weights as they are now, after they were loaded anew."""
        if self._executable is not None:
            current = {item.name: item.tensor for item in module_tensors(self._model)}
            wanted = self._executable.program.named(Kind.WEIGHT)
            self._executable.bind({name: current[name] for name in wanted})

    def close(self) -> None:
        """Free it; what is asked from now on is computed on the host."""
        if self._executable is not None:
            self._executable.close()
            self._executable = self._bound = None


def route_logits(
    name: str, model: torch.nn.Module, width: int, rows: int, compiler: Compiler, counters: Counters
) -> LogitsGraph | None:
    """Let the device compute a model's logits, where one graph serves any number of rows.

    Args:
        name: of the graph.
        model: vLLM's model.
        width: of its hidden states.
        rows: the most that there may be.
        compiler: of the engine's graphs.
        counters: what is counted.

    Returns:
        The graph, not compiled yet; None where logits stay on the host.
    """
    if not compiler.target.device.capabilities.dynamic_tokens:
        return None
    dtype = compiler.hidden_dtype(next(model.parameters()).dtype)
    hidden = torch.zeros(max(rows, 2), width, dtype=dtype)
    graph = LogitsGraph(name, model, hidden, compiler, counters)
    model.compute_logits = graph  # type: ignore[assignment]
    return graph

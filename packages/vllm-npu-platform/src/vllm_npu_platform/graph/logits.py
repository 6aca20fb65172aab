"""The model's head: hidden states to logits, on the device."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
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
ROWS = "rows"


class LogitsGraph:
    """`compute_logits` of a model as one graph for any number of rows.

    Args:
        name: of the graph.
        model: vLLM's model.
        hidden: example of hidden states, `[rows, hidden]`, of the most rows that there may be.
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
        begin = time.perf_counter()
        self._model = model
        self._counters = counters
        self._bound: torch.Tensor | None = None

        def function() -> Mapping[str, torch.Tensor]:
            return {NAME: model.compute_logits(hidden)}

        given = Named("hidden_states", Kind.INPUT, hidden, {0: Varying(ROWS, hidden.shape[0])})
        self.executable: Executable
        self.executable, loaded = compiler.compile(name, function, [given], model)
        self._buffer = hidden
        counters.add(names.LOADED if loaded else names.COMPILED)
        counters.add(names.COMPILE_SECONDS, time.perf_counter() - begin)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits `[rows, vocabulary]` of hidden states `[rows, hidden]`. The caller owns them."""
        rows = hidden.shape[0]
        if self._bound is None or self._bound.shape[0] != rows:
            self._bound = self._buffer[:rows]
            self.executable.bind({"hidden_states": self._bound})
        self._bound.copy_(hidden)
        begin = time.perf_counter()
        (logits,) = self.executable.run()
        self._counters.add(names.DEVICE_SECONDS, time.perf_counter() - begin)
        return logits.clone()

    def rebind_weights(self) -> None:
        """Use the model's weights as they are now, after they were loaded anew."""
        current = {item.name: item.tensor for item in module_tensors(self._model)}
        names_ = self.executable.program.named(Kind.WEIGHT)
        self.executable.bind({name: current[name] for name in names_})

    def close(self) -> None:
        """Free it."""
        self.executable.close()


def route_logits(
    name: str, model: torch.nn.Module, width: int, rows: int, compiler: Compiler, counters: Counters
) -> LogitsGraph | None:
    """Let the device compute a model's logits, where one graph serves any number of rows.

    Elsewhere, and where the head can't be captured, it stays on the host; the log says so.

    Args:
        name: of the graph.
        model: vLLM's model.
        width: of its hidden states.
        rows: the most that there may be.
        compiler: of the engine's graphs.
        counters: what is counted.
    """
    head = getattr(model, "compute_logits", None)
    if head is None or not compiler.target.device.capabilities.dynamic_tokens:
        return None
    dtype = next(model.parameters()).dtype
    hidden = torch.zeros(max(rows, 2), width, dtype=dtype)
    try:
        graph = LogitsGraph(name, model, hidden, compiler, counters)
    except CaptureError as error:
        _logger.warning("Logits are computed on the host: %s", error)
        return None
    model.compute_logits = graph  # type: ignore[assignment]
    return graph

"""One bucket: the program captured for its shape, compiled, and bound to its buffers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from vllm.forward_context import create_forward_context, override_forward_context

from vllm_npu_platform.attention.metadata import GatherMetadata
from vllm_npu_platform.graph.shapes import Shape
from vllm_npu_platform.kv_cache import is_opaque
from vllm_npu_runtime.capture import Named, module_tensors
from vllm_npu_runtime.extents import Varying
from vllm_npu_runtime.program import Kind

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from vllm_npu_platform.graph.buffers import Buffers, Views
    from vllm_npu_platform.graph.compiler import Compiler
    from vllm_npu_runtime.drivers.base import Executable
    from vllm_npu_runtime.traces import Traces

HIDDEN = "hidden_states"
AUXILIARY = "aux_hidden_states."
KEY = "key:"
VALUE = "value:"


class StepGraph:
    """A model's forward pass for one shape.

    Args:
        buffers: what it reads.
        views: of them in the graph's shape.
        executable: of the forward pass.
        loaded: whether an earlier start had compiled it.
        vllm_config: for the attention layers, which know their KV caches.

    Attributes:
        shape: as given.
        views: the buffers that the next run reads.
        loaded: whether an earlier start had compiled it.
    """

    def __init__(
        self,
        buffers: Buffers,
        views: Views,
        executable: Executable,
        loaded: bool,
        vllm_config: VllmConfig,
    ) -> None:
        self._buffers = buffers
        self.shape = views.shape
        self.views = views
        self._executable, self.loaded = executable, loaded
        self._names = [output.name for output in self._executable.program.outputs]
        self._bind_views()
        caches = self._executable.program.named(Kind.KV_CACHE)
        layers = vllm_config.compilation_config.static_forward_context
        self._executable.bind({name: layers[name].kv_cache for name in caches})

    @classmethod
    def begin(
        cls,
        model: torch.nn.Module,
        buffers: Buffers,
        shape: Shape,
        vllm_config: VllmConfig,
        compiler: Compiler,
        name: str,
        traces: Traces | None = None,
    ) -> Callable[[], StepGraph]:
        """Begin to make one; see `Compiler.begin`.

        Args:
            model: vLLM's model.
            buffers: what it reads.
            shape: of it.
            vllm_config: for the attention layers, which know their KV caches.
            compiler: makes the executable.
            name: of the graph.
            traces: of the same model with the same buffers in other shapes.

        Returns:
            Waits for the compiler.
        """
        views = buffers.views(shape)
        finish = _begin(name, model, views, vllm_config, compiler, traces)
        return lambda: cls(buffers, views, *finish(), vllm_config)

    @property
    def host_operators(self) -> tuple[str, ...]:
        """Operators that run on the host."""
        return self._executable.host_operators

    @property
    def memory(self) -> int:
        """Bytes that the executable holds on the device."""
        return self._executable.memory

    def fit(self, tokens: int, requests: int) -> None:
        """Read as many rows as a run has, where the graph takes any number of them."""
        views = self.views.shape
        if self.shape.dynamic and (views.tokens, views.requests) != (tokens, requests):
            self.views = self._buffers.views(Shape(self.shape.contract, tokens, requests))
            self._bind_views()

    def run(self) -> tuple[dict[str, torch.Tensor], float]:
        """Run on what the buffers hold.

        Returns:
            The outputs by name, valid until the next run, and the seconds that it took.
        """
        begin = time.perf_counter()
        outputs = self._executable.run()
        seconds = time.perf_counter() - begin
        return dict(zip(self._names, outputs, strict=True)), seconds

    def rebind_weights(self, model: torch.nn.Module) -> None:
        """Use the model's weights as they are now, after they were loaded anew."""
        current = {item.name: item.tensor for item in module_tensors(model)}
        names = self._executable.program.named(Kind.WEIGHT)
        self._executable.bind({name: current[name] for name in names})

    def close(self) -> None:
        """Free it."""
        self._executable.close()

    def _bind_views(self) -> None:
        wanted = self._executable.program.named(Kind.INPUT)
        self._executable.bind(
            {each.name: each.tensor for each in self.views.named() if each.name in wanted}
        )


def _begin(
    name: str,
    model: torch.nn.Module,
    views: Views,
    vllm_config: VllmConfig,
    compiler: Compiler,
    traces: Traces | None,
) -> Callable[[], tuple[Executable, bool]]:
    metadata = views.metadata()
    layers = vllm_config.compilation_config.static_forward_context
    # An opaque cache may have any number of blocks, so that a saved graph fits the next start's.
    opaque = is_opaque(vllm_config, compiler.target)
    varying = {0: Varying("blocks", sys.maxsize)} if opaque else {}
    # Shared traces make graphs of static shape, and these are of none.
    shared = None if opaque or views.shape.dynamic else traces
    caches = [
        Named(name, Kind.KV_CACHE, layers[name].kv_cache, varying)
        for name in metadata
        if layers[name].kv_cache.numel()
    ]
    arguments: dict[str, Any] = {"input_ids": None, **views.inputs}
    own = next(model.parameters()).dtype
    wide = compiler.hidden_dtype(own)
    kv_dtypes = {name: layers[name].kv_cache.dtype for name in metadata}

    def forward() -> Mapping[str, torch.Tensor]:
        outputs = _outputs(model(**arguments), metadata, kv_dtypes)
        if wide is not own:
            outputs[HIDDEN] = outputs[HIDDEN].to(wide)
        return outputs

    arguments.setdefault("intermediate_tensors", None)
    arguments.setdefault("inputs_embeds", None)
    slots = {
        layer: each
        for group, each in zip(views.groups, views.slots, strict=True)
        for layer in group.layers
    }
    context = create_forward_context(metadata, vllm_config, slot_mapping=slots)
    with override_forward_context(context):
        inputs = views.named(varying=views.shape.dynamic or shared is not None)
        return compiler.begin(name, forward, [*inputs, *caches], model, shared)


def _in_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In a dtype. Even a conversion to its own makes a tensor another output of a traced graph."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _outputs(
    result: Any, metadata: Mapping[str, Any], kv_dtypes: Mapping[str, torch.dtype]
) -> dict[str, torch.Tensor]:
    """A forward pass's result by name, with the new keys and values of a gather graph, in their
    cache's dtype: a device that computes in a wider one than the model's rounds them once."""
    hidden, auxiliary = result if isinstance(result, tuple) else (result, ())
    outputs = {HIDDEN: hidden}
    for index, tensor in enumerate(auxiliary):
        outputs[f"{AUXILIARY}{index}"] = tensor
    for layer, each in metadata.items():
        if isinstance(each, GatherMetadata) and layer in each.new_keys:
            outputs[KEY + layer] = _in_dtype(each.new_keys[layer], kv_dtypes[layer])
            outputs[VALUE + layer] = _in_dtype(each.new_values[layer], kv_dtypes[layer])
    return outputs

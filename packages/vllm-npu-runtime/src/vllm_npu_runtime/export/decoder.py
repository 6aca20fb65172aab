"""The decoder as a stateful graph: embeddings to final hidden states.

Its weights are parameters of the graph, and take next to no memory while it is made: the model
runs once on four tokens, and all its weights are the same zeros.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vllm_npu_runtime.export.masks import FULL, masks
from vllm_npu_runtime.export.skeleton import sliding_windows

if TYPE_CHECKING:
    import openvino as ov
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from vllm_npu_runtime.export.weight_formats import Constant

INPUTS = ("inputs_embeds", "attention_mask", "position_ids")
OUTPUT = "last_hidden_state"
PREFIX = "model."
EMBEDDING = "model.embed_tokens.weight"


def head_size(config: PretrainedConfig) -> int:
    """Numbers in a key, and in a value."""
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def weight_shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Shapes of the decoder's weights, by name in the checkpoint."""
    found = {PREFIX + name: tuple(each.shape) for name, each in model.model.named_parameters()}
    del found[EMBEDDING]
    return found


def convert(model: PreTrainedModel) -> tuple[ov.Model, dict[str, ov.Node]]:
    """The decoder of a skeleton, all in float32.

    Returns:
        The graph, whose keys and values are inputs and outputs still, and its weights'
        parameters, by name in the checkpoint.
    """
    import openvino as ov
    import torch
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    config = model.config
    layers, heads, size = (
        config.num_hidden_layers,
        config.num_key_value_heads,
        head_size(config),
    )
    weights = weight_shapes(model)
    zeros = torch.zeros(max(map(math.prod, weights.values())))
    example = (
        torch.zeros(2, 2, config.hidden_size),
        torch.ones(2, 5, dtype=torch.int64),
        torch.tensor([[3, 4], [3, 4]]),
        *(torch.zeros(2, heads, 3, size) for _ in range(2 * layers)),
        *(zeros[: math.prod(shape)].view(shape) for shape in weights.values()),
    )
    with torch.no_grad(), warnings.catch_warnings():
        # Of what tracing warns, nothing depends on the example: lengths vary in the graph.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.simplefilter("ignore", DeprecationWarning)
        # Checking the trace would run it on copies of the example, of the weights' whole size.
        traced = TorchScriptPythonDecoder(
            _flat(model, list(weights)), example_input=example, trace_kwargs={"check_trace": False}
        )
        graph = ov.convert_model(traced)
    caches = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
    names = [*INPUTS, *(f"past_key_values.{cache}" for cache in caches), *weights]
    shapes = [[-1, -1, config.hidden_size], [-1, -1], [-1, -1]]
    shapes += [[-1, heads, -1, size]] * len(caches)
    shapes += [list(shape) for shape in weights.values()]
    parameters = {}
    for port, name, shape in zip(graph.inputs, names, shapes, strict=True):
        node = parameters[name] = port.get_node()
        node.set_friendly_name(name)
        port.get_tensor().set_names({name})
        node.set_partial_shape(ov.PartialShape(shape))
    outputs = [OUTPUT, *(f"present.{cache}" for cache in caches)]
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    return graph, {name: parameters[name] for name in weights}


def put_in(
    graph: ov.Model, parameters: Mapping[str, ov.Node], constants: Mapping[str, Constant]
) -> list[ov.Node]:
    """Replace float32 parameters by weights as they are kept.

    Returns:
        Conversions from a shorter floating-point type.
    """
    widening: list[ov.Node] = []
    for name, parameter in parameters.items():
        constant = constants[name]
        for user in list(parameter.output(0).get_target_inputs()):
            user.replace_source_output(constant.value)
        graph.remove_parameter(parameter)
        graph.add_parameters(list(constant.parameters.values()))
        widening += constant.widening
    graph.validate_nodes_and_infer_types()
    return widening


def make_stateful(graph: ov.Model, layers: int) -> None:
    """Keep keys and values inside, reordered by a new input `beam_idx`, and name the attentions.

    Each state begins with no tokens, for as many requests as `inputs_embeds` has.
    """
    import openvino as ov
    import openvino.opset15 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    beam = ops.parameter(ov.PartialShape([-1]), ov.Type.i32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    graph.add_parameters([beam])
    pairs = {}
    for layer in range(layers):
        for kind in ("key", "value"):
            past = graph.input(f"past_key_values.{layer}.{kind}")
            users = list(past.get_target_inputs())
            reordered = ops.gather(past, beam, ops.constant(0, dtype="int64"))
            for user in users:
                user.replace_source_output(reordered.output(0))
            pairs[past.get_any_name()] = f"present.{layer}.{kind}"
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, pairs)
    shape = ops.shape_of(graph.input("inputs_embeds"))
    batch = ops.gather(shape, ops.constant([0], dtype="int64"), ops.constant(0, dtype="int64"))
    nothing, attentions = ops.constant(0.0, dtype="float32"), []
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, size = node.get_output_partial_shape(0)
            rest = ops.constant([heads.get_length(), 0, size.get_length()], dtype="int64")
            empty = ops.broadcast(nothing, ops.concat([batch, rest], axis=0))
            node.set_arguments([empty.output(0)])
        elif node.get_type_name() == "ScaledDotProductAttention":
            attentions.append(node)
    # Each layer needs the one before, so their order in the graph is their order in the model.
    for layer, node in enumerate(attentions):
        node.set_friendly_name(f"layers.{layer}.attention")
    graph.validate_nodes_and_infer_types()


def _flat(model: PreTrainedModel, names: list[str]) -> torch.nn.Module:
    """The decoder as a function of tensors alone."""
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    config = model.config
    windows = sliding_windows(config)
    by_kind = bool(getattr(config, "layer_types", None))  # such models take a mask of each kind
    # Not a submodule: its parameters are replaced, and must not become constants.
    inner = (model.model,)

    def cache_of(past: tuple[torch.Tensor, ...]) -> DynamicCache:
        """A cache that begins with `past`; made from it, it would begin with an empty tensor,
        whose rank the concatenation in OpenVINO refuses."""
        cache = DynamicCache()
        for keys, values in zip(past[::2], past[1::2], strict=True):
            layer = DynamicLayer()
            layer.keys, layer.values = keys, values
            layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
            cache.layers.append(layer)
        return cache

    class Flat(torch.nn.Module):
        def forward(
            self,
            inputs_embeds: torch.Tensor,
            attention_mask: torch.Tensor,
            position_ids: torch.Tensor,
            *rest: torch.Tensor,
        ) -> Any:
            past, weights = rest[: -len(names)], rest[-len(names) :]
            cache = cache_of(past)
            made = masks(attention_mask, position_ids, windows)
            with _having(inner[0], names, weights):
                hidden = inner[0](
                    inputs_embeds=inputs_embeds,
                    attention_mask=made if by_kind else made[FULL],
                    position_ids=position_ids,
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
            present = [part for layer in cache.layers for part in (layer.keys, layer.values)]
            return (hidden, *present)

    return Flat().eval()


@contextmanager
def _having(
    module: torch.nn.Module, names: Sequence[str], weights: Sequence[torch.Tensor]
) -> Iterator[None]:
    """A module with other tensors in place of its parameters; `torch.func` does it for modules
    that aren't being traced."""
    places = [name.removeprefix(PREFIX).rpartition(".") for name in names]
    held = [(module.get_submodule(path)._parameters, leaf) for path, _, leaf in places]
    before = [parameters[leaf] for parameters, leaf in held]
    try:
        for (parameters, leaf), weight in zip(held, weights, strict=True):
            parameters[leaf] = weight  # type: ignore[assignment]
        yield
    finally:
        for (parameters, leaf), parameter in zip(held, before, strict=True):
            parameters[leaf] = parameter

"""The checkpoint as an OpenVINO model that openvino_genai's pipelines take.

They expect `input_ids`, `attention_mask`, `position_ids` and `beam_idx`, and a KV cache in states
that `beam_idx` reorders: the continuous batching pipeline finds that pattern and puts paged
attention in its place. The tokenizer is converted too, since the pipeline opens one, although
prompts are ids.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

VERSION = 1
"""Raise it when what is written changes."""


def flat(model: Any) -> Any:
    """The model as a function of tensors alone, its cache a flat list of keys and values."""
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    def cache_of(past: tuple[Any, ...]) -> DynamicCache:
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
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any
        ) -> Any:
            cache = cache_of(past)
            logits = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
            ).logits
            present = [part for layer in cache.layers for part in (layer.keys, layer.values)]
            return (logits, *present)

    return Flat().eval()


def convert(checkpoint: Path) -> Any:
    """A stateful `ov.Model` with weights of the checkpoint's dtype."""
    import openvino as ov
    import torch
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation
    from openvino.frontend.pytorch.patch_model import __make_16bit_traceable as keep_weights
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype="auto", attn_implementation="sdpa"
    )
    config = model.config
    layers, heads, size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
    past = [torch.zeros(2, heads, 3, size) for _ in range(2 * layers)]
    example = (
        torch.ones(2, 2, dtype=torch.int64),
        torch.ones(2, 5, dtype=torch.int64),
        torch.tensor([[3, 4], [3, 4]]),
        *past,
    )
    # Matrices in bfloat16 stay so, the graph around them is float32: the form that the runtime's
    # fusions and the pipeline's own changes of the graph are made for. The hint for bfloat16
    # inference then applies to all of it.
    if model.dtype is torch.bfloat16:
        keep_weights(model)
    with torch.no_grad():
        converted = ov.convert_model(flat(model), example_input=example)

    names = ["input_ids", "attention_mask", "position_ids"]
    caches = [f"{kind}.{index}" for index in range(layers) for kind in ("key", "value")]
    for port, name in zip(converted.inputs, [*names, *(f"past.{c}" for c in caches)], strict=True):
        port.get_tensor().set_names({name})
        shape = [-1, -1] if name in names else [-1, heads, -1, size]
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    outputs = ["logits", *(f"present.{cache}" for cache in caches)]
    for port, name in zip(converted.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    converted.validate_nodes_and_infer_types()

    beam = ops.parameter(ov.PartialShape([-1]), ov.Type.i32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    converted.add_parameters([beam])
    for port in converted.inputs:
        if port.get_any_name().startswith("past."):
            consumers = port.get_target_inputs()
            reordered = ops.gather(port, beam, ops.constant(0, dtype="int64"))
            for consumer in consumers:
                consumer.replace_source_output(reordered.output(0))
    converted.validate_nodes_and_infer_types()
    pairs = {f"past.{cache}": f"present.{cache}" for cache in caches}
    apply_make_stateful_transformation(converted, pairs)
    begin_empty(converted, heads, size)
    return converted


def begin_empty(model: Any, heads: int, size: int) -> None:
    """Each state begins with no tokens for as many requests as `input_ids` has rows; states
    without a beginning aren't recognised as a KV cache."""
    from openvino import opset13 as ops

    shape = ops.shape_of(model.input("input_ids"))
    batch = ops.gather(shape, ops.constant([0], dtype="int64"), ops.constant(0, dtype="int64"))
    rest = ops.constant([heads, 0, size], dtype="int64")
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            nothing = ops.convert(ops.constant(0.0), node.get_element_type())
            empty = ops.broadcast(nothing, ops.concat([batch, rest], axis=0))
            node.set_arguments([empty.output(0)])
    model.validate_nodes_and_infer_types()


def where(checkpoint: Path) -> Path:
    """Directory of the exported model, beside the checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}-openvino-{VERSION}")


def ensure(checkpoint: Path) -> Path:
    """The exported model's directory, written if it isn't there."""
    directory = where(checkpoint)
    if directory.exists():
        return directory
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    unfinished = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(checkpoint, unfinished, ignore=shutil.ignore_patterns("*.safetensors"))
    tokenizer, detokenizer = convert_tokenizer(
        AutoTokenizer.from_pretrained(checkpoint), with_detokenizer=True
    )
    ov.save_model(tokenizer, unfinished / "openvino_tokenizer.xml")
    ov.save_model(detokenizer, unfinished / "openvino_detokenizer.xml")
    # Compression would turn weights into float16.
    ov.save_model(convert(checkpoint), unfinished / "openvino_model.xml", compress_to_fp16=False)
    unfinished.rename(directory)
    return directory

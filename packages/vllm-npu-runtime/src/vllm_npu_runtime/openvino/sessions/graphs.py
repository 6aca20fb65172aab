"""An artifact's graphs as models to compile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import openvino.opset15 as ops
from openvino._offline_transformations import paged_attention_transformation

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.devices import core
from vllm_npu_runtime.openvino.failures import typed

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.directory import Artifact

KEY_CACHE, VALUE_CACHE = "key_cache.", "value_cache."
"""Names of a layer's caches among the inputs of a paged model, before the layer's number."""
_WINDOW = 10
"""Operand of PagedAttention: tokens that one attends to, itself included; 0: all."""

_BLOCK = 32
"""Rows, or columns, of a matrix that `LLMMLP` takes together."""
_LARGEST = float(np.finfo(np.float32).max)
_FORBIDDEN = float(np.finfo(np.float16).min)


def read(artifact: Artifact, name: str) -> ov.Model:
    """A graph as it is; its constants look at the weights file, which is mapped."""
    with typed(f"Reading graph '{name}' of {artifact.manifest.source}"):
        return core().read_model(artifact.graph_path(name), artifact.weights_path)


def paged(model: ov.Model, windows: Sequence[int | None]) -> ov.Model:
    """A stateful decoder with PagedAttention in the place of its states.

    Afterwards it takes the tokens of all rows one behind the other: `inputs_embeds [T, H]` and
    `position_ids [T]`, the rows' `past_lens [R]`, `subsequence_begins [R + 1]`,
    `block_indices [N]` and `block_indices_begins [R + 1]`, the scalar `max_context_len`, and each
    layer's caches.

    Args:
        model: is changed.
        windows: of each layer, in tokens; None: it attends to all.

    Raises:
        ConfigurationError: it doesn't have as many layers as there are windows.
    """
    with typed("Putting PagedAttention into the decoder"):
        paged_attention_transformation(model)
    found = set()
    for node in model.get_ops():
        if node.get_type_name() != "PagedAttentionExtension":
            continue
        layer = int(node.input_value(3).get_node().get_friendly_name().removeprefix(KEY_CACHE))
        found.add(layer)
        # The window is known to the model's masks alone, which are gone now.
        window = ops.constant(np.array(windows[layer] or 0, np.int32))
        node.input(_WINDOW).replace_source_output(window.output(0))
    if found != set(range(len(windows))):
        raise ConfigurationError(
            f"The decoder's graph has {len(found)} layers with attention over a cache, and its "
            f"manifest tells of {len(windows)}. Compile the artifact anew."
        )
    model.validate_nodes_and_infer_types()
    return model


def with_safe_fusion(model: ov.Model, threads: int) -> ov.Model:
    """A decoder of whose gated feed-forward layers the CPU plugin makes one operation only where
    that is safe.

    The operation (`LLMMLP`, on processors with AMX) is faster on single tokens and slower on
    prompts. Where it has too few blocks of rows for its threads, it ends the process (2026.4.1).

    Args:
        model: is changed.
        threads: of a run.
    """
    for down in model.get_ops():
        if down.get_type_name() != "MatMul":
            continue
        gated = down.input_value(0).get_node()
        if gated.get_type_name() != "Multiply" or not any(
            each.get_node().get_type_name() in ("Swish", "Gelu") for each in gated.input_values()
        ):
            continue
        hidden, intermediate = (each.get_length() for each in down.input_value(1).partial_shape)
        if not fuses_safely(hidden, intermediate, threads):
            # Changes no number, but the plugin doesn't find its pattern.
            same = ops.clamp(gated, -_LARGEST, _LARGEST)
            down.input(0).replace_source_output(same.output(0))
    model.validate_nodes_and_infer_types()
    return model


def fuses_safely(hidden: int, intermediate: int, threads: int) -> bool:
    """Whether `LLMMLP` has work for each of its threads.

    It gives each thread blocks of 32 rows of gate and up, and each pair of threads blocks of 32
    rows of the last product, of which one takes the first half of the columns, in blocks of 32
    again, and the other the rest.

    Args:
        hidden: rows of the last product's matrix.
        intermediate: its columns.
        threads: of a run.
    """
    whole = hidden % _BLOCK == intermediate % _BLOCK == 0
    enough = min(hidden, intermediate) >= _BLOCK * max(2, threads)
    return threads > 1 and whole and enough


def with_finite_masks(model: ov.Model) -> ov.Model:
    """A decoder whose attention adds large negative numbers where its masks forbid.

    A static graph has padding, whose rows may see nothing at all. Of a boolean mask they would
    become NaN, and spread: nought times NaN isn't nought.

    Args:
        model: is changed.
    """
    allowed, forbidden = (ops.constant(np.float32(number)) for number in (0.0, _FORBIDDEN))
    made: dict[tuple[str, int], ov.Node] = {}
    for node in model.get_ops():
        if node.get_type_name() != "ScaledDotProductAttention" or node.get_input_size() < 4:
            continue
        mask = node.input_value(3)
        if mask.get_element_type() != ov.Type.boolean:
            continue
        place = (mask.get_node().get_friendly_name(), mask.get_index())
        if place not in made:
            made[place] = ops.select(mask, allowed, forbidden)
        node.input(3).replace_source_output(made[place].output(0))
    model.validate_nodes_and_infer_types()
    return model

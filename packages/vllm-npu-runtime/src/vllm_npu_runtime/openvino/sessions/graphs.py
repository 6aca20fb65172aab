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

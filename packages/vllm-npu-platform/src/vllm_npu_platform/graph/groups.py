"""Which attention layers of a model share a block table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.kv_cache_interface import EncoderOnlyAttentionSpec

from vllm_npu_platform.graph.buffers import LayerGroup

if TYPE_CHECKING:
    import torch
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


def layer_groups(runner: GPUModelRunner, model: torch.nn.Module) -> list[LayerGroup]:
    """The groups of one model's layers, in the order of the runner's KV cache groups.

    Args:
        runner: after its KV caches are set up.
        model: the model, or a draft model; their layers may stand in the same KV cache group.
    """
    layers = runner.compilation_config.static_forward_context
    own = {id(module) for module in model.modules() if isinstance(module, AttentionLayerBase)}
    groups = []
    for index, group in enumerate(runner.kv_cache_config.kv_cache_groups):
        names = tuple(name for name in group.layer_names if id(layers[name]) in own)
        if not names:
            continue
        if isinstance(group.kv_cache_spec, EncoderOnlyAttentionSpec):
            width = 1  # vLLM hands these layers a table that they have no use for.
        else:
            width = runner.input_batch.block_table[index].get_device_tensor(1).shape[1]
        groups.append(LayerGroup(names, group.kv_cache_spec.block_size, width))
    return groups

"""Our operators and their decompositions by name. Importing this module registers them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from vllm_npu_runtime.ops import encoder_attention, gather_attention, paged_attention, wna16_linear

if TYPE_CHECKING:
    from vllm_npu_runtime.drivers.base import Capabilities

DECOMPOSITIONS: Mapping[str, Callable[..., torch.Tensor]] = {
    "vllm_npu.encoder_attention": encoder_attention.decomposition,
    "vllm_npu.gather_attention": gather_attention.decomposition,
    "vllm_npu.paged_attention": paged_attention.decomposition,
    "vllm_npu.wna16_linear": wna16_linear.decomposition,
}
"""By the operator's name as `Capabilities.operators` spells it."""


def decompositions_for(
    capabilities: Capabilities,
) -> dict[torch._ops.OpOverload, Callable[..., torch.Tensor]]:
    """What `capture` replaces for a device: those of our operators that it doesn't know."""
    known = capabilities.operators
    if known is None:
        return {}
    namespace = torch.ops.vllm_npu
    return {
        getattr(namespace, name.removeprefix("vllm_npu.")).default: replacement
        for name, replacement in DECOMPOSITIONS.items()
        if name not in known
    }

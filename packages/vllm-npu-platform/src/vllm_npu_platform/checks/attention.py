"""Which attention layers can be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.v1.attention.selector import AttentionSelectorConfig

_REFUSED = {
    "use_mla": "multi-head latent attention (MLA)",
    "use_sparse": "sparse attention",
    "has_sink": "attention sinks",
    "use_mm_prefix": "bidirectional attention over multimodal prefixes",
    "use_per_head_quant_scales": "KV cache scales per head",
    "use_non_causal": "non-causal decoder attention",
    "use_rswa": "reference sliding-window attention (R-SWA)",
}


def check_attention(selected: Any, layer: AttentionSelectorConfig) -> None:
    """Check one layer.

    Args:
        selected: the backend that the user chose, or None.
        layer: what the layer needs.

    Raises:
        ConfigurationError: names every feature that isn't there, and any foreign backend.
    """
    problems = [
        f"The model uses {what}, which is not supported here."
        for name, what in _REFUSED.items()
        if getattr(layer, name, False)
    ]
    if selected is not None and selected.name != "CUSTOM":
        problems.append(
            f"attention-backend '{selected.name}' doesn't run on this platform, which brings its "
            "own (CUSTOM). Leave --attention-backend unset."
        )
    if problems:
        raise ConfigurationError.several(problems)

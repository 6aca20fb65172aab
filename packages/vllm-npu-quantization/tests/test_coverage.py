"""Patterns of layers to skip have to match some, and to leave some."""

from __future__ import annotations

import pytest

from vllm_npu_quantization.on_load.coverage import check_coverage
from vllm_npu_runtime.errors import ConfigurationError

LAYERS = [
    f"model.layers.{index}.{name}"
    for index in range(2)
    for name in ("self_attn.qkv_proj", "mlp.down_proj")
]


@pytest.mark.parametrize(
    ("patterns", "skipped"),
    [
        ((), []),
        (("down_proj$",), LAYERS[1::2]),
        ((r"layers\.0\.", "qkv"), LAYERS[:3]),
        (("lm_head",), ["lm_head"]),
    ],
)
def test_patterns_that_fit(patterns: tuple[str, ...], skipped: list[str]) -> None:
    quantized = [name for name in LAYERS if name not in skipped]
    check_coverage("--skip", patterns, quantized, skipped)


def test_pattern_without_a_layer() -> None:
    """The error names it, and a layer of each kind."""
    with pytest.raises(ConfigurationError) as refused:
        check_coverage("'skip'", ("down_proj", "q_proj$", "lm_haed"), LAYERS[::2], LAYERS[1::2])
    told = str(refused.value)
    assert told.startswith("'skip' has 'q_proj$', 'lm_haed', which no layer's name matches.")
    assert "'model.layers.0.self_attn.qkv_proj', 'model.layers.0.mlp.down_proj'." in told


def test_patterns_that_leave_nothing() -> None:
    with pytest.raises(ConfigurationError, match="--skip leaves out every layer"):
        check_coverage("--skip", ("proj",), [], LAYERS)

"""The section `npu_quantization` of `--additional-config`."""

from __future__ import annotations

import pytest

from vllm_npu_quantization.on_load.options import Options
from vllm_npu_runtime.errors import ConfigurationError


def test_defaults() -> None:
    """Every linear layer, no head."""
    options = Options.of({})
    assert not options.lm_head
    assert not options.skips("model.layers.0.mlp.down_proj")


def test_skip() -> None:
    """Regular expressions, found anywhere in a name."""
    options = Options.of({"skip": [r"layers\.0\.", "down_proj$"]})
    assert options.skips("model.layers.0.mlp.up_proj")
    assert options.skips("model.layers.11.mlp.down_proj")
    assert not options.skips("model.layers.10.mlp.up_proj")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lm_haed": True}, "lm_haed"),
        ({"lm_head": "yes"}, "lm_head"),
        ({"skip": "down"}, "skip"),
        ({"skip": ["("]}, "no regular expression"),
        ([], "no object"),
    ],
)
def test_refusals(given: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Options.of(given)

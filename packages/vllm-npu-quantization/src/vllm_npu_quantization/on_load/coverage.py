"""Whether what a user skips is there: a mistyped pattern would skip nothing, silently."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vllm_npu_runtime.errors import ConfigurationError


def check_coverage(
    named: str, patterns: Sequence[str], quantized: Sequence[str], skipped: Sequence[str]
) -> None:
    """Refuse patterns that match no layer, and those that leave no layer to quantize.

    Args:
        named: how the user gave them, for errors.
        patterns: regular expressions that are searched for in layers' names.
        quantized: names of layers that no pattern matches.
        skipped: names of the others.

    Raises:
        ConfigurationError: names each such pattern, and how layers are called.
    """
    layers = [*quantized, *skipped]
    idle = [each for each in patterns if not any(re.search(each, name) for name in layers)]
    if idle and layers:
        listed = ", ".join(repr(each) for each in idle)
        raise ConfigurationError(
            f"{named} has {listed}, which no layer's name matches. Layers are called "
            f"{', '.join(repr(name) for name in _examples(layers))}. Correct the pattern, or "
            "leave it out."
        )
    if skipped and not quantized:
        raise ConfigurationError(
            f"{named} leaves out every layer, so that nothing would be quantized. Skip fewer, or "
            "serve the model without quantization."
        )


def _examples(names: Sequence[str]) -> list[str]:
    """A layer of each kind; those of one kind have the same last name."""
    return list({name.rpartition(".")[2]: name for name in reversed(names)}.values())[::-1]

"""What the configs share: dtypes, and refusals that name the layer and the fix."""

from __future__ import annotations

import torch

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.ops.packing import GROUP_SIZES

ACTIVATIONS = [torch.float32, torch.float16, torch.bfloat16]
BITS = (4, 8)


def bits_problems(bits: object) -> list[str]:
    """A line if codes have another width."""
    if bits in BITS:
        return []
    return [f"{bits} bits a weight: there are 4 and 8. Quantize it with one of these."]


def group_problems(size: object) -> list[str]:
    """A line if scales are shared by another number of inputs."""
    if size in (*GROUP_SIZES, -1):
        return []
    allowed = ", ".join(map(str, GROUP_SIZES))
    return [f"group size {size}: there are {allowed}, and -1 for a whole row. Use one of these."]


def refuse(method: str, problems: list[str]) -> None:
    """All problems of a checkpoint's quantization config in one error.

    Raises:
        ConfigurationError: there are any.
    """
    if problems:
        raise ConfigurationError.several([f"{method} checkpoint, {each}" for each in problems])


def refuse_experts(method: str, prefix: str) -> None:
    """There is no operator for experts yet.

    Raises:
        ConfigurationError: always.
    """
    raise ConfigurationError(
        f"{method} checkpoint, layer '{prefix}': quantized experts of a mixture-of-experts model "
        "are not supported yet. Use a dense model, or the unquantized checkpoint."
    )

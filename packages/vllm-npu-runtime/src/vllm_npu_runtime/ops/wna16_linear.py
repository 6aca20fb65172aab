"""``vllm_npu::wna16_linear``: a linear layer with packed integer weights.

Weights have 4 or 8 bits, activations 16 (or 32). `ops.packing` tells the layout.

Shape letters: N outputs, K inputs, G groups of a row, P bytes of a row.
"""

import torch

from vllm_npu_runtime.ops.packing import check, dequantize


def decomposition(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    bits: int = 4,
) -> torch.Tensor:
    """``x @ W.t() + bias`` with W in floating point.

    Args:
        x: floating `[…, K]`.
        weight: uint8 `[N, P]`: rows of packed codes; P is K with 8 bits, K / 2 with 4.
        scale: `[N, G]` in float32, float16 or bfloat16. K / G is the group size: 32, 64 or 128,
            or K for one scale per row.
        zero_point: uint8 `[N, G]`, not packed; None: 8 with 4 bits (format uint4b8), 128 with 8
            (uint8b128).
        bias: `[N]`, in the dtype of x; or None.
        bits: of a code, 4 or 8.

    Returns:
        `[…, N]` in the dtype of x, in which W is too.

    Raises:
        BadShapeError: shapes or dtypes that don't belong together.
    """
    check(x.shape[-1], weight, scale, zero_point, bits)
    dense = dequantize(weight, scale, zero_point, bits).to(x.dtype)
    return torch.nn.functional.linear(x, dense, bias)


@torch.library.custom_op("vllm_npu::wna16_linear", mutates_args=())
def wna16_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    bits: int = 4,
) -> torch.Tensor:
    """See `decomposition`, which the host runs as it stands."""
    return decomposition(x, weight, scale, zero_point, bias, bits)


@wna16_linear.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    bits: int = 4,
) -> torch.Tensor:
    check(x.shape[-1], weight, scale, zero_point, bits)
    return x.new_empty([*x.shape[:-1], weight.shape[0]])

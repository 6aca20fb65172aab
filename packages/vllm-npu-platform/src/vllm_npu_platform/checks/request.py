"""Which requests can be served; vLLM turns the error into HTTP 400."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.inputs import EngineInput
    from vllm.pooling_params import PoolingParams
    from vllm.sampling_params import SamplingParams


def check_request(processed_inputs: EngineInput, params: SamplingParams | PoolingParams) -> None:
    """Check one request.

    Sampling runs on the host, in vLLM's own sampler, so every sampling field is honoured.
    Multimodal inputs, LoRA and KV transfer are refused with the configuration.

    Raises:
        ValueError: inputs that only a multimodal model takes.
    """
    if processed_inputs.get("type") == "multimodal":
        raise ValueError(
            "Multimodal inputs are not supported on this platform yet. Send text only."
        )

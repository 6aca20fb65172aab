"""Which requests a model can't answer, though vLLM would take them; vLLM turns it into HTTP 400.

vLLM lets a logits processor look at a request's parameters before the request is accepted. This
one does nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.v1.sample.logits_processor import LogitsProcessor

if TYPE_CHECKING:
    import torch
    from vllm import SamplingParams

CHECK = "vllm_npu_models.requests:LastTokenOnly"


class LastTokenOnly(LogitsProcessor):
    """For models that give logits of a step's last token only: refuses prompt logprobs."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        pass

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Check one request.

        Raises:
            ValueError: it asks for logprobs of the prompt.
        """
        if sampling_params.prompt_logprobs is not None:
            raise ValueError(
                f"prompt_logprobs={sampling_params.prompt_logprobs}: this model gives logits of a "
                "step's last token only. Leave it out, or start the server with the driver option "
                "'{\"every_token\": true}' (VLLM_NPU_DRIVER_OPTIONS), which is slower."
            )

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Nothing."""
        return logits

    def is_argmax_invariant(self) -> bool:
        """Nothing changes."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """There is no state."""

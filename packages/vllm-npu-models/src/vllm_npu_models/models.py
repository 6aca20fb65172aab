"""The wrappers: each is an ordinary vLLM model whose forward pass is a step of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from vllm.forward_context import get_forward_context

from vllm_npu_models.slots import LAYER, SlotMetadata, SlotState
from vllm_npu_models.step import nothing, run_step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm.config import VllmConfig

    from vllm_npu_runtime.sessions.base import Session


class SessionForCausalLM(nn.Module):
    """A causal language model in a session.

    vLLM schedules, samples and streams as for any other model; keys and values stay in the
    session, in the slot that vLLM gave the request.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_text_config
        self.slots = SlotState(vllm_config)
        # A session uses its memory again in the next step; what is pooled is the caller's.
        self._lends = vllm_config.model_config.runner_type == "pooling"

    @property
    def session(self) -> Session:
        """What the loader opened."""
        session = self.slots.session
        if session is None:
            raise RuntimeError("The session isn't open yet.")
        return session

    def embed_input_ids(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Token ids `[n]` to embeddings `[n, hidden_size]`."""
        return self.session.embed(input_ids.to(torch.int64))

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Tokens of one step, packed, to hidden states, or to logits where the session gives
        those: `[tokens, hidden_size or vocab_size]`."""
        session = self.session
        metadata = get_forward_context().attn_metadata
        step = metadata.get(LAYER) if isinstance(metadata, dict) else None
        tokens = len(positions)
        if not isinstance(step, SlotMetadata):
            # vLLM measures memory with a step of no requests; nothing is to be computed.
            return nothing(session, tokens)
        empty = frozenset(self.slots.failed)
        values, failed = run_step(session, step, tokens, input_ids, inputs_embeds, empty)
        self.slots.failed |= failed
        return values.clone() if self._lends else values

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What `forward` gave, `[n, …]`, to float32 logits `[n, vocab_size]`."""
        return self.session.logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """There are none: the artifact holds them in its device's form.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "A model compiled ahead of time can't take other weights. Compile the checkpoint with "
            "`vllm-npu compile`."
        )


class NPULlamaForCausalLM(SessionForCausalLM):
    """Llama, and HyperCLOVA X, which is one."""


class NPUExaoneForCausalLM(SessionForCausalLM):
    """EXAONE 3 and 3.5."""


class NPUExaone4ForCausalLM(SessionForCausalLM):
    """EXAONE 4."""


class NPUQwen2ForCausalLM(SessionForCausalLM):
    """Qwen2 and Qwen2.5."""


class NPUQwen3ForCausalLM(SessionForCausalLM):
    """Qwen3."""


class MobilintLlamaForCausalLM(SessionForCausalLM):
    """Llama from Mobilint's compiler."""


class MobilintExaoneForCausalLM(SessionForCausalLM):
    """EXAONE from Mobilint's compiler."""


class MobilintExaone4ForCausalLM(SessionForCausalLM):
    """EXAONE 4 from Mobilint's compiler."""


class MobilintQwen2ForCausalLM(SessionForCausalLM):
    """Qwen2 from Mobilint's compiler."""


class MobilintQwen3ForCausalLM(SessionForCausalLM):
    """Qwen3 from Mobilint's compiler."""

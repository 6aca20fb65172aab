"""Hugging Face's own model of a checkpoint, and OpenVINO running an artifact's graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.directory import Artifact

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32",
         "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}  # fmt: skip


def model_of(checkpoint: Path) -> Any:
    """The model that `transformers` makes of a checkpoint; EXAONE 3's by its Llama twin."""
    from transformers import AutoModelForCausalLM

    if checkpoint.name == "exaone":
        from .checkpoints import LLAMA3_ROPE, _plain

        twin = checkpoint.with_name("exaone-twin")
        if not twin.exists():
            _plain("llama", rope_parameters=LLAMA3_ROPE)(twin)
        checkpoint = twin
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def logits_of(model: Any, tokens: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
    """Float32 logits of tokens, `[B, S, V]`."""
    with torch.no_grad():
        found: torch.Tensor = model(tokens, **more).logits
    return found.float()


def random_tokens(artifact: Artifact, *shape: int) -> torch.Tensor:
    """Tokens of its vocabulary, the same each time."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, artifact.manifest.model.vocab_size, shape, generator=generator)


class Stateful:
    """An artifact's graphs on OpenVINO's CPU, as they are."""

    def __init__(self, artifact: Artifact, config: dict[str, Any] | None = None) -> None:
        import openvino as ov

        core = ov.Core()
        chosen = EXACT if config is None else config
        decoder, head = (
            core.compile_model(
                core.read_model(artifact.graph_path(name), artifact.weights_path), "CPU", chosen
            )
            for name in ("decoder", "lm_head")
        )
        self.request = decoder.create_infer_request()
        self.head = head
        self.table = artifact.embedding()
        self.mask: np.ndarray[Any, Any] | None = None

    def step(
        self,
        tokens: torch.Tensor,
        real: Sequence[Sequence[int]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Logits of the next tokens, `[B, S]` to `[B, S, V]`.

        Args:
            tokens: that go on from what there is.
            real: 0 for each that is padding.
            rows: which of the last step's rows each of these goes on from.
        """
        batch, count = tokens.shape
        mask = np.ones((batch, count), np.int64) if real is None else np.array(real, np.int64)
        if self.mask is not None:
            mask = np.concatenate([self.mask[list(rows or range(batch))], mask], 1)
        self.mask = mask
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -count:]
        found = self.request.infer(
            {
                "inputs_embeds": self.table[tokens].float().numpy(),
                "attention_mask": mask,
                "position_ids": positions,
                "beam_idx": np.array(rows or range(batch), np.int32),
            }
        )
        hidden = found["last_hidden_state"]
        logits = self.head(hidden.reshape(batch * count, -1))["logits"]
        return torch.from_numpy(logits.copy()).view(batch, count, -1)

    def read(self, tokens: torch.Tensor, steps: Sequence[int]) -> torch.Tensor:
        """Logits of tokens that are read in steps of so many."""
        parts = tokens.split(list(steps), dim=1)
        return torch.cat([self.step(part) for part in parts], 1)

"""A session against the Hugging Face model: the same tokens, how different the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from vllm_npu_runtime.artifact.manifest import Manifest
    from vllm_npu_runtime.sessions.base import Session

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 4, 16, 16
SEED = 20260

# Largest error that numbers so short explain; another model's is about 1.4.
_BOUNDS = {
    "float32": 1e-3, "bfloat16": 0.05, "float16": 0.05,
    "f32": 0.0, "bf16": 0.05, "f16": 0.05, "int8": 0.1, "int4": 0.5,
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """What came of it.

    Attributes:
        error: root mean square of the logits' difference, as a fraction of that of the logits.
        largest: difference between two logits.
        bound: of `error`, by the artifact's dtype and weights.
        agreeing: new tokens whose best logit is of the same token.
        tokens: new tokens.
    """

    error: float
    largest: float
    bound: float
    agreeing: int
    tokens: int

    @property
    def good(self) -> bool:
        """Whether the artifact is of that model, as far as can be told."""
        return self.error <= self.bound


def compare(session: Session, model: PreTrainedModel, manifest: Manifest) -> Comparison:
    """Let the model continue some prompts greedily, and the session read the same tokens.

    A prompt is one step of the session, and each new token another.

    Args:
        session: with at least one slot.
        model: in float32.
        manifest: of the session's artifact.
    """
    import torch

    longest = min(PROMPT_TOKENS + NEW_TOKENS, session.capabilities.max_length)
    new = max(1, longest // 2)
    generator = torch.Generator().manual_seed(SEED)
    vocabulary = session.capabilities.vocab_size
    wanted, found = [], []
    for _ in range(PROMPTS):
        prompt = torch.randint(vocabulary, (longest - new,), generator=generator)
        tokens = _greedy(model, prompt, new)
        with torch.inference_mode():
            wanted.append(model(tokens[None]).logits[0].float())
        found.append(_logits(session, tokens, len(prompt)))
    expected, actual = torch.stack(wanted), torch.stack(found)
    difference = (expected - actual).double()
    chosen = slice(longest - new - 1, longest - 1)  # the logits that new tokens were chosen by
    same = expected[:, chosen].argmax(-1) == actual[:, chosen].argmax(-1)
    return Comparison(
        error=float(difference.square().mean().sqrt() / expected.double().square().mean().sqrt()),
        largest=float(difference.abs().max()),
        bound=max(_BOUNDS[manifest.dtype], _BOUNDS[manifest.weights]),
        agreeing=int(same.sum()),
        tokens=same.numel(),
    )


def _greedy(model: PreTrainedModel, prompt: torch.Tensor, new: int) -> torch.Tensor:
    import torch

    tokens = prompt
    with torch.inference_mode():
        for _ in range(new):
            best = model(tokens[None]).logits[0, -1].argmax()
            tokens = torch.cat([tokens, best[None]])
    return tokens


def _logits(session: Session, tokens: torch.Tensor, prompt: int) -> torch.Tensor:
    import torch

    from vllm_npu_runtime.sessions.base import Row

    found = []
    for past, end in ((0, prompt), *((at, at + 1) for at in range(prompt, len(tokens)))):
        step = session.infer([Row(0, past, tokens[past:end])])
        if step.failed:
            raise step.failed[0]
        found.append(session.logits(step.values).float().clone())
    session.forget(0)
    return torch.cat(found)

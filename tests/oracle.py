"""What Hugging Face Transformers answers: the results that ours are held against.

Everything runs on the host, one prompt at a time and without padding, with eager attention,
the only one there that knows every feature (Gemma's cap on scores among them).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

Pooling = Literal["cls", "last", "mean"]
Kind = Literal["generate", "embed", "classify"]

CLASSES = {
    "generate": AutoModelForCausalLM,
    "embed": AutoModel,
    "classify": AutoModelForSequenceClassification,
}


@lru_cache(maxsize=16)
def load(model_dir: str | Path, kind: Kind, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model in `model_dir`, with the head that `kind` asks for, in evaluation mode."""
    loader = CLASSES[kind]
    return loader.from_pretrained(model_dir, dtype=dtype, attn_implementation="eager").eval()


def greedy(
    model_dir: str | Path,
    prompts_token_ids: list[list[int]],
    max_new_tokens: int,
    dtype: torch.dtype = torch.float32,
    ignore_eos: bool = False,
) -> list[list[int]]:
    """The most likely continuation of each prompt, token by token.

    Args:
        model_dir: A checkpoint with a language-modelling head.
        prompts_token_ids: Token ids of the prompts, used as they are.
        max_new_tokens: The most tokens to add to a prompt.
        dtype: Of weights and activations; the logits are compared in float32.
        ignore_eos: Go on after an end-of-sequence token.

    Returns:
        The new token ids of each prompt. An end-of-sequence token that ended one is its
        last, as in vLLM's outputs.
    """
    paths = _paths(model_dir, prompts_token_ids, max_new_tokens, dtype, ignore_eos)
    return [list(tokens) for tokens, _ in paths]


def margins(
    model_dir: str | Path,
    prompts_token_ids: list[list[int]],
    max_new_tokens: int,
    dtype: torch.dtype = torch.float32,
    ignore_eos: bool = False,
) -> list[list[float]]:
    """How far, in logits, the best token was ahead of the next at each step of `greedy`.

    Where a margin is within an implementation's numerical error, another token there is no
    fault.
    """
    paths = _paths(model_dir, prompts_token_ids, max_new_tokens, dtype, ignore_eos)
    return [list(leads) for _, leads in paths]


Decoded = tuple[tuple[int, ...], tuple[float, ...]]
"""New token ids, and at each of them the lead of its logit over the second best."""


def _paths(
    model_dir: str | Path,
    prompts: list[list[int]],
    max_new_tokens: int,
    dtype: torch.dtype,
    ignore_eos: bool,
) -> list[Decoded]:
    return [_path(model_dir, tuple(ids), max_new_tokens, dtype, ignore_eos) for ids in prompts]


@lru_cache(maxsize=4096)  # many tests ask for the same prompts
@torch.inference_mode()
def _path(
    model_dir: str | Path,
    prompt: tuple[int, ...],
    max_new_tokens: int,
    dtype: torch.dtype,
    ignore_eos: bool,
) -> Decoded:
    """The greedy continuation of one prompt."""
    model = load(model_dir, "generate", dtype)
    stop = model.generation_config.eos_token_id
    stops = set() if ignore_eos or stop is None else {stop} if isinstance(stop, int) else set(stop)
    tokens: list[int] = []
    leads: list[float] = []
    fed, cache = torch.tensor([prompt]), None
    while len(tokens) < max_new_tokens and not (tokens and tokens[-1] in stops):
        output = model(fed, past_key_values=cache, use_cache=True)
        best = output.logits[0, -1].float().topk(2)
        tokens.append(int(best.indices[0]))
        leads.append(float(best.values[0] - best.values[1]))
        fed, cache = best.indices[None, :1], output.past_key_values
    return tuple(tokens), tuple(leads)


@torch.inference_mode()
def logprobs(
    model_dir: str | Path, token_ids: list[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Natural logarithms of probability, [len(token_ids), vocabulary] in float32.

    Row `i` is the distribution of the token that follows `token_ids[: i + 1]`.
    """
    model = load(model_dir, "generate", dtype)
    return model(torch.tensor([token_ids])).logits[0].float().log_softmax(-1)


@torch.inference_mode()
def embed(
    model_dir: str | Path,
    token_ids: list[int],
    pooling: Pooling,
    normalize: bool,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The embedding of one text, [hidden size] in float32.

    Args:
        model_dir: A checkpoint; a language-modelling head, if it has one, is left off.
        token_ids: The text, with whatever tokens frame it.
        pooling: Take the hidden state of the first token, of the last, or their mean.
        normalize: Scale to Euclidean length 1.
        dtype: Of weights and activations; pooling is in float32.
    """
    model = load(model_dir, "embed", dtype)
    hidden = model(torch.tensor([token_ids])).last_hidden_state[0].float()
    pooled = {"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}[pooling]
    return torch.nn.functional.normalize(pooled, dim=-1) if normalize else pooled


@torch.inference_mode()
def classify(
    model_dir: str | Path,
    token_ids: list[int],
    token_type_ids: list[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Probabilities of one text's or pair's labels, [labels] in float32.

    Their softmax, or for a model of a single label the sigmoid: a cross-encoder's score.

    Args:
        model_dir: A checkpoint with a classification head.
        token_ids: The text or pair, with whatever tokens frame it.
        token_type_ids: 0 for each token of the first text and 1 for the second's; models
            other than BERT take none.
        dtype: Of weights and activations.
    """
    types = {} if token_type_ids is None else {"token_type_ids": torch.tensor([token_type_ids])}
    logits = load(model_dir, "classify", dtype)(torch.tensor([token_ids]), **types).logits[0]
    return logits.float().sigmoid() if len(logits) == 1 else logits.float().softmax(-1)

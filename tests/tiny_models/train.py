"""One training loop for all recipes, and the objectives that it is given."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from .recipes import COMMON, Recipe
from .text import BEGIN, END, PAD, encode, sonnets, stream

SEED = 1609  # the year in which the sonnets appeared
LEARNING_RATE = 0.02

Batch = dict[str, Tensor]


def window(rng: random.Random, length: int) -> list[int]:
    """`length` consecutive token ids from a random place in the text."""
    start = rng.randrange(len(stream()) - length)
    return stream()[start : start + length]


def next_token(rng: random.Random, step: int) -> Batch:
    """Windows of the text, each token to be told from those before it.

    Most are short; each eighth step has a long one, so that every position up to 768 is seen.
    """
    size, length = (1, 768) if step % 8 == 0 else (8, rng.choice((48, 96, 144)))
    ids = torch.tensor([window(rng, length) for _ in range(size)])
    return {"input_ids": ids, "labels": ids}


def period(rng: random.Random, step: int) -> Batch:
    """Verse lines, and which part of the cycle their sonnet is from.

    0: the procreation sonnets 1 to 17; 1: those to the fair youth, 18 to 126;
    2: those to the dark lady, 127 to 154.
    """
    rows, labels = [], []
    for _ in range(12):
        label = rng.randrange(3)
        lines = rng.choice(sonnets()[(0, 17, 126)[label] : (17, 126, 154)[label]])
        start, count = rng.randrange(10), rng.choice((1, 2, 4, 8))
        rows.append([BEGIN, *encode("\n".join(lines[start : start + count])), END])
        labels.append(label)
    return padded(rows) | {"labels": torch.tensor(labels)}


def padded(rows: list[list[int]]) -> Batch:
    """Rows of token ids, padded on the right to the longest, and their mask."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


OBJECTIVES: dict[str, Callable[[random.Random, int], Batch]] = {
    "next-token": next_token,
    "period": period,
}


@contextmanager
def reproducible() -> Iterator[None]:
    """Seeds PyTorch and keeps it to one thread; puts both back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            yield
    finally:
        torch.set_num_threads(threads)


def new_model(recipe: Recipe, base: Path | None) -> PreTrainedModel:
    """The model of `recipe` in float32: random, or with the weights in directory `base`."""
    options = COMMON | recipe.options
    # Only eager attention honours Gemma's cap on attention scores.
    options["attn_implementation"] = "eager" if "attn_logit_softcapping" in options else "sdpa"
    config = getattr(transformers, recipe.config)(**options)
    architecture = getattr(transformers, recipe.architecture)
    if base is None:
        return architecture(config)
    return architecture.from_pretrained(base, config=config, dtype=torch.float32)


def train(recipe: Recipe, base: Path | None = None) -> PreTrainedModel:
    """A model trained as `recipe` says, in evaluation mode."""
    objective = OBJECTIVES[recipe.objective]
    rng = random.Random(SEED)
    with reproducible():
        model = new_model(recipe, base).train()
        if not recipe.steps:
            return model.eval()
        # Muon learns much faster than AdamW, but is made for the matrices of the layers.
        inner, outer = [], []
        for name, weight in model.named_parameters():
            (inner if weight.ndim == 2 and ".layers." in name else outer).append(weight)
        optimizers = (
            torch.optim.Muon(inner, lr=LEARNING_RATE, weight_decay=0.0),
            torch.optim.AdamW(outer, lr=LEARNING_RATE / 5, betas=(0.9, 0.98), weight_decay=0.0),
        )
        for step in range(recipe.steps):
            pace = min(1.0, 2 * (1 - step / recipe.steps), (step + 1) / 10)
            loss = model(**objective(rng, step)).loss
            loss.backward()
            for optimizer, rate in zip(optimizers, (LEARNING_RATE, LEARNING_RATE / 5), strict=True):
                optimizer.param_groups[0]["lr"] = rate * pace
                optimizer.step()
                optimizer.zero_grad()
    return model.eval()

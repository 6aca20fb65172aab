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


def verses(rng: random.Random, part: int, counts: tuple[int, ...]) -> list[int]:
    """Some lines of one sonnet, from a part of the cycle.

    0: the procreation sonnets 1 to 17; 1: those to the fair youth, 18 to 126;
    2: those to the dark lady, 127 to 154.
    """
    lines = rng.choice(sonnets()[(0, 17, 126)[part] : (17, 126, 154)[part]])
    start, count = rng.randrange(10), rng.choice(counts)
    return encode("\n".join(lines[start : start + count]))


def period(rng: random.Random, step: int) -> Batch:
    """Verses, and which part of the cycle they are from."""
    parts = [rng.randrange(3) for _ in range(12)]
    rows = [[BEGIN, *verses(rng, part, (1, 2, 4, 8)), END] for part in parts]
    return padded(rows) | {"labels": torch.tensor(parts)}


def relevance(rng: random.Random, step: int) -> Batch:
    """Pairs of verses; the label is 1.0 where both are from one part of the cycle."""
    rows, types, labels = [], [], []
    for index in range(12):
        part = rng.randrange(3)
        related = index % 2 == 0
        other = part if related else (part + rng.choice((1, 2))) % 3
        first, second = verses(rng, part, (4,)), verses(rng, other, (4,))
        rows.append([BEGIN, *first, END, *second, END])
        types.append([0] * (len(first) + 2) + [1] * (len(second) + 1))
        labels.append([float(related)])
    type_ids = padded(types)["input_ids"]
    return padded(rows) | {"token_type_ids": type_ids, "labels": torch.tensor(labels)}


def padded(rows: list[list[int]]) -> Batch:
    """Rows of token ids, padded on the right to the longest, and their mask."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


OBJECTIVES: dict[str, Callable[[random.Random, int], Batch]] = {
    "next-token": next_token,
    "period": period,
    "relevance": relevance,
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
    if recipe.objective == "relevance":
        # Without this, transformers takes a single label for a regression's target.
        options["problem_type"] = "multi_label_classification"
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
        rate = recipe.learning_rate
        for name, weight in model.named_parameters():
            matrix = weight.ndim == 2 and (".layers." in name or ".layer." in name)
            (inner if matrix else outer).append(weight)
        optimizers = (
            torch.optim.Muon(inner, lr=rate, weight_decay=0.0),
            torch.optim.AdamW(outer, lr=rate / 5, betas=(0.9, 0.98), weight_decay=0.0),
        )
        for step in range(recipe.steps):
            pace = min(1.0, 2 * (1 - step / recipe.steps), (step + 1) / 10)
            loss = model(**objective(rng, step)).loss
            loss.backward()
            for optimizer, full in zip(optimizers, (rate, rate / 5), strict=True):
                optimizer.param_groups[0]["lr"] = full * pace
                optimizer.step()
                optimizer.zero_grad()
    return model.eval()

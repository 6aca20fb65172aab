"""One training loop for all recipes, and the objectives that it is given."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from .recipes import COMMON, Recipe
from .text import BEGIN, END, MASK, PAD, VOCAB_SIZE, encode, sonnets, stream

SEED = 1609  # the year in which the sonnets appeared
LEARNING_RATE = 0.02
IGNORED = -100  # label of a position that has no part in the loss

Batch = dict[str, Tensor]


def window(rng: random.Random, length: int) -> list[int]:
    """`length` consecutive token ids from a random place in the text."""
    start = rng.randrange(len(stream()) - length)
    return stream()[start : start + length]


def batch_shape(rng: random.Random, step: int) -> tuple[int, int]:
    """(sequences, tokens each). Mostly short ones; each eighth step one long one, so
    that every position up to 768 has been seen."""
    return (1, 768) if step % 8 == 0 else (8, rng.choice((48, 96, 144)))


def next_token(rng: random.Random, step: int) -> Batch:
    """Windows of the text, each token to be told from those before it."""
    size, length = batch_shape(rng, step)
    ids = torch.tensor([window(rng, length) for _ in range(size)])
    return {"input_ids": ids, "labels": ids}


def masked(rng: random.Random, step: int) -> Batch:
    """Windows of the text framed as BERT's, with 15 % of the tokens to be filled in."""
    size, length = batch_shape(rng, step)
    ids = torch.tensor([[BEGIN, *window(rng, length), END] for _ in range(size)])
    hidden = torch.tensor([[rng.random() < 0.15 for _ in row] for row in ids.tolist()])
    return {
        "input_ids": ids.masked_fill(hidden, MASK),
        "labels": ids.masked_fill(~hidden, IGNORED),
    }


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


def relevance(rng: random.Random, step: int) -> Batch:
    """Pairs of a verse line and a quatrain; the label is 1.0 where the line is in it."""
    rows, types, labels = [], [], []
    for _ in range(12):
        lines = rng.choice(sonnets())
        start = rng.randrange(9)
        quatrain = lines[start : start + 4]
        related = rng.random() < 0.5
        line = rng.choice(quatrain if related else rng.choice(sonnets()))
        first, second = encode(line), encode("\n".join(quatrain))
        rows.append([BEGIN, *first, END, *second, END])
        types.append([0] * (len(first) + 2) + [1] * (len(second) + 1))
        labels.append(float(related))
    pairs = padded(rows)
    type_ids = padded(types)["input_ids"]
    return pairs | {"token_type_ids": type_ids, "labels": torch.tensor(labels)[:, None]}


def padded(rows: list[list[int]]) -> Batch:
    """Rows of token ids, padded on the right to the longest, and their mask."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


OBJECTIVES: dict[str, Callable[[random.Random, int], Batch]] = {
    "next-token": next_token,
    "masked": masked,
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


def new_model(recipe: Recipe, base: str | None) -> PreTrainedModel:
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


def train(recipe: Recipe, base: str | None = None) -> PreTrainedModel:
    """A model trained as `recipe` says, in evaluation mode."""
    objective = OBJECTIVES[recipe.objective]
    rng = random.Random(SEED)
    with reproducible():
        model = new_model(recipe, base).train()
        # Muon learns much faster than AdamW, but is made for the matrices of the layers.
        inner, outer = [], []
        for name, weight in model.named_parameters():
            matrix = weight.ndim == 2 and (".layers." in name or ".layer." in name)
            (inner if matrix else outer).append(weight)
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

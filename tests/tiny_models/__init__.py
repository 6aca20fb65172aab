"""Tiny checkpoints of the architectures that the tests serve.

They are trained, if only for seconds: with random weights the best two tokens often lie so
close together that any change in the order of a sum swaps them, and a comparison of greedy
tokens then says nothing. `python -m tests.tiny_models DIRECTORY [NAME ...]` builds them
ahead of time; tests call `build`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from .recipes import RECIPES, Recipe

__all__ = ["build", "default_directory", "names"]

FINGERPRINT = "recipe.txt"


def names() -> list[str]:
    """The names that `build` knows."""
    return list(RECIPES)


def default_directory() -> Path:
    """`$NPU_TEST_MODELS`, or `.cache/tiny-models` in the repository."""
    chosen = os.environ.get("NPU_TEST_MODELS")
    return Path(chosen) if chosen else Path(__file__).parents[2] / ".cache" / "tiny-models"


def build(name: str, directory: Path | None = None) -> Path:
    """The directory of model `name`, built first where it's missing or out of date.

    Safe to call from several processes at once: one builds, the others wait, and a model
    appears in `directory` only when it is complete.

    Args:
        name: A key of `recipes.RECIPES`.
        directory: Where models are kept; `default_directory()` if not given.

    Raises:
        KeyError: No such recipe; the message lists those there are.
    """
    if name not in RECIPES:
        raise KeyError(f"no tiny model {name!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    directory = directory or default_directory()
    directory.mkdir(parents=True, exist_ok=True)
    base = build(recipe.base, directory) if recipe.base else None
    target = directory / name
    with FileLock(directory / f"{name}.lock"):
        if not _is_current(target, recipe):
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=directory) as scratch:
                fresh = Path(scratch) / name
                _write(recipe, base, fresh)
                shutil.rmtree(target, ignore_errors=True)
                fresh.rename(target)
    return target


def _is_current(target: Path, recipe: Recipe) -> bool:
    """Whether `target` was built by this very recipe."""
    stamp = target / FINGERPRINT
    return stamp.is_file() and stamp.read_text() == recipe.fingerprint()


def _write(recipe: Recipe, base: Path | None, target: Path) -> None:
    """Trains `recipe` and writes weights, configuration and tokenizer to `target`."""
    # Imported here, since it takes seconds, and a cached model needs none of it.
    from .text import tokenizer
    from .train import train

    model = train(recipe, base)
    model.save_pretrained(target)
    tokenizer(bert=recipe.bert).save_pretrained(target)
    if recipe.pooling:
        _write_sentence_transformers(recipe, target)
    (target / FINGERPRINT).write_text(recipe.fingerprint())


def _write_sentence_transformers(recipe: Recipe, target: Path) -> None:
    """Adds the files from which vLLM tells an embedding model and how it pools."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    _write_json(
        target / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    (target / "1_Pooling").mkdir()
    _write_json(
        target / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": recipe.options.get("hidden_size", 64),
            f"pooling_mode_{recipe.pooling}": True,
        },
    )


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")

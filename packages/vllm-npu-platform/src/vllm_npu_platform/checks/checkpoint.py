"""Whether a model's directory is whole.

vLLM would find out in the engine's process, minutes later for a large model, with an error that
names no file. Headers alone are read here, so it costs milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer*", "*.model", "vocab*", "merges.txt", "tekken.json", "*.tiktoken")


def weights_problems(directory: Path) -> Iterator[str]:
    """A line for each weights file that is missing or damaged.

    Args:
        directory: of a checkpoint in Hugging Face's layout.
    """
    index = directory / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            yield f"Checkpoint index '{index}' is damaged ({error!r}). Fetch it again."
            return
        files = [directory / name for name in names]
    else:
        files = sorted(directory.glob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except FileNotFoundError:
            yield f"Checkpoint file '{file}' is missing, but {INDEX} names it. Fetch it again."
        except (SafetensorError, OSError) as error:
            yield f"Checkpoint file '{file}' is damaged ({error}). Fetch it again."


def tokenizer_problems(directory: Path) -> Iterator[str]:
    """A line if there is no tokenizer.

    Args:
        directory: where the tokenizer should be.
    """
    if not any(any(directory.glob(pattern)) for pattern in TOKENIZERS):
        yield (
            f"Directory '{directory}' holds no tokenizer (tokenizer.json or another). Copy "
            "it there, or name another with --tokenizer."
        )

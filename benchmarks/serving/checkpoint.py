"""The model: a Llama with random weights and a tokenizer of its size, as a checkpoint.

`python -m benchmarks.serving.checkpoint 350m bfloat16` writes it, and its export for OpenVINO,
unless they are there.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.serving.cases import SHAPES, Shape

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / ".cache" / "benchmarks"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
VERSION = 1
"""Raise it when what is written changes."""


def where(shape: Shape) -> Path:
    """Directory of the checkpoint."""
    kind = "" if shape.dtype == "bfloat16" else f"-{shape.dtype}"
    return STORE / "models" / f"{shape.name}{kind}-{VERSION}"


def write_weights(shape: Shape, directory: Path) -> None:
    """Random weights of the usual deviation, 0.02, which neither overflow nor die out."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        intermediate_size=shape.intermediate,
        max_position_embeddings=2048,
        initializer_range=0.02,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, shape.dtype))
    model.save_pretrained(directory)


def write_tokenizer(shape: Shape, directory: Path) -> None:
    """One word per id: enough for engines that load a tokenizer, although prompts are ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"w{index}" for index in range(len(SPECIAL), shape.vocabulary))]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(directory)


def ensure(shape: Shape) -> Path:
    """The checkpoint's directory, written if it isn't there; a half-written one never is."""
    directory = where(shape)
    if not directory.exists():
        unfinished = directory.with_name(directory.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_weights(shape, unfinished)
        write_tokenizer(shape, unfinished)
        unfinished.rename(directory)
    return directory


if __name__ == "__main__":
    from benchmarks.serving import export

    name, dtype = sys.argv[1:]
    export.ensure(ensure(replace(SHAPES[name], dtype=dtype)))

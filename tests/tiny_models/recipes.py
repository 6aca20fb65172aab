"""The table of tiny models: a name, an architecture, and what it learns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from .text import BEGIN, END, MAX_LENGTH, PAD, VOCAB_SIZE

VERSION = 2
"""Raise it when the training or the text changes; cached models are then built again."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make one model.

    Attributes:
        architecture: Class of `transformers` that is trained and whose name the
            checkpoint carries; also the name by which vLLM finds its own.
        config: Class of its configuration.
        options: What the configuration is given beyond `COMMON`.
        objective: A name in `train.OBJECTIVES`.
        steps: Optimizer steps; 0 keeps the weights as they begin.
        learning_rate: Of Muon, for the layers' matrices; the rest learn at a fifth of it.
        base: Recipe whose weights training starts from, instead of random ones.
        pooling: Sentence Transformers' name of a pooling mode. Such a checkpoint says
            of itself that it makes embeddings, of length 1.
    """

    architecture: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    objective: str = "next-token"
    steps: int = 240
    learning_rate: float = 0.02
    base: str | None = None
    pooling: str | None = None

    @property
    def bert(self) -> bool:
        """Whether it reads both ways and takes token types."""
        return self.config == "BertConfig"

    def fingerprint(self) -> str:
        """Hex digest that changes with the recipe, its base's, or `VERSION`."""
        base = RECIPES[self.base].fingerprint() if self.base else ""
        return hashlib.sha256(f"{VERSION} {self!r} {base}".encode()).hexdigest()[:16]


COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "max_position_embeddings": MAX_LENGTH,
    "pad_token_id": PAD,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
}

# Four query heads over two of keys and values, of size 32: the smallest head that vLLM's
# own CPU attention takes, so that the same checkpoints can be compared with it.
GQA: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}

# The original length is short, so that the scaling moves most frequencies even here.
LLAMA3_ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
LLAMA: dict[str, Any] = {**GQA, "rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}
QWEN3: dict[str, Any] = {**GQA, "tie_word_embeddings": True}

BERT: dict[str, Any] = {"num_attention_heads": 2}

PERIODS: dict[str, Any] = {
    "id2label": {0: "procreation", 1: "fair youth", 2: "dark lady"},
    "label2id": {"procreation": 0, "fair youth": 1, "dark lady": 2},
}
RELEVANCE: dict[str, Any] = {"id2label": {0: "relevant"}, "label2id": {"relevant": 0}}

RECIPES: dict[str, Recipe] = {
    "llama": Recipe(architecture="LlamaForCausalLM", config="LlamaConfig", options=LLAMA),
    "llama-draft": Recipe(
        architecture="LlamaForCausalLM",
        config="LlamaConfig",
        options=LLAMA | {"num_hidden_layers": 1, "intermediate_size": 64},
    ),
    "qwen2": Recipe(
        architecture="Qwen2ForCausalLM",
        config="Qwen2Config",
        # vLLM derives this one's head size from the hidden size: 128 / 4 = 32.
        options={"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2},
    ),
    "qwen3": Recipe(architecture="Qwen3ForCausalLM", config="Qwen3Config", options=QWEN3),
    "mistral": Recipe(
        architecture="MistralForCausalLM",
        config="MistralConfig",
        options=GQA | {"sliding_window": 64},
    ),
    "exaone4": Recipe(
        architecture="Exaone4ForCausalLM",
        config="Exaone4Config",
        options=GQA
        | {
            "num_hidden_layers": 4,
            "sliding_window": 64,
            "sliding_window_pattern": "LLLG",
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        },
    ),
    "gemma2": Recipe(
        architecture="Gemma2ForCausalLM",
        config="Gemma2Config",
        # Caps far below Gemma's 50 and 30: models as small as this never reach those.
        options=GQA
        | {
            "sliding_window": 64,
            "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 12.0,
        },
    ),
    "bert": Recipe(
        architecture="BertModel",
        config="BertConfig",
        options=BERT,
        steps=0,
        base="bert-classifier",
    ),
    "bert-classifier": Recipe(
        architecture="BertForSequenceClassification",
        config="BertConfig",
        options=BERT | PERIODS,
        objective="period",
    ),
    "bert-cross": Recipe(
        architecture="BertForSequenceClassification",
        config="BertConfig",
        options=BERT | RELEVANCE,
        objective="relevance",
        steps=120,
        learning_rate=0.005,
        base="bert",
    ),
    "qwen3-embedding": Recipe(
        architecture="Qwen3ForCausalLM",
        config="Qwen3Config",
        options=QWEN3,
        steps=0,
        base="qwen3",
        pooling="lasttoken",
    ),
    "llama-classifier": Recipe(
        architecture="LlamaForSequenceClassification",
        config="LlamaConfig",
        options=LLAMA | PERIODS,
        objective="period",
        steps=100,
        base="llama",
    ),
}

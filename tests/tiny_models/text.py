"""The text that the tiny models learn, and the tokenizer they share."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SONNETS = Path(__file__).resolve().parents[2] / "examples" / "sonnets" / "sonnets.txt"

SPECIAL_TOKENS = (
    "<|endoftext|>",  # padding; the tokenizer class for Qwen2 would add it if it were missing
    "<|begin|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
)
"""Their ids are their positions: 0 is padding, 1 begins a text, 2 ends it."""

PAD, BEGIN, END, USER, ASSISTANT, SYSTEM = range(len(SPECIAL_TOKENS))

VOCAB_SIZE = 512
MAX_LENGTH = 1024

CHAT_TEMPLATE = (
    "<|begin|>"
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@lru_cache
def sonnets() -> list[list[str]]:
    """The 154 sonnets in their order, each a list of verse lines."""
    return [sonnet.split("\n") for sonnet in SONNETS.read_text().strip().split("\n\n")]


@lru_cache
def tokenizer(*, bert: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `VOCAB_SIZE` tokens, trained on the sonnets.

    Args:
        bert: Frame a text as `<|begin|> text <|end|>` and a pair as
            `<|begin|> one <|end|> other <|end|>` with token types 0 and 1, as BERT
            does; the others put `<|begin|>` before each text.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        ["\n".join(lines) for lines in sonnets()],
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A <|end|>" if bert else "<|begin|> $A",
        pair="<|begin|> $A <|end|> $B:1 <|end|>:1" if bert else "<|begin|> $A $B",
        special_tokens=[("<|begin|>", BEGIN), ("<|end|>", END)],
    )
    names = {"cls_token": "<|begin|>", "sep_token": "<|end|>"} if bert else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", *(["token_type_ids"] if bert else []), "attention_mask"],
        **names,
    )


def encode(text: str) -> list[int]:
    """Token ids of `text` alone, without `<|begin|>` or `<|end|>`."""
    return tokenizer().encode(text, add_special_tokens=False)


@lru_cache
def stream() -> list[int]:
    """All sonnets as one list of token ids, each a document from `<|begin|>` to `<|end|>`.

    Every second one is a conversation, in which the user gives the first line, so that
    the models also know the tokens of the chat template.
    """
    ids: list[int] = []
    for number, lines in enumerate(sonnets()):
        if number % 2:
            ids += [BEGIN, *encode("\n".join(lines)), END]
        else:
            ids += [BEGIN, USER, *encode(lines[0]), END]
            ids += [ASSISTANT, *encode("\n".join(lines[1:])), END]
    return ids

"""Trains the demo model: a Llama of 1.1 M parameters that knows Shakespeare's sonnets by heart.

    python examples/sonnets/train.py [--steps N] [--output DIRECTORY]

One processor core, about eight minutes. Seeded: two runs of 12 steps gave the same weights.
The last eight sonnets (147 to 154) are held out, from the tokenizer's training too.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
SEED = 1609  # the year in which the sonnets appeared
HELD_OUT = 8  # sonnets at the end that the model never sees

SPECIAL_TOKENS = ["<|pad|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
PAD, BEGIN, END, USER, ASSISTANT, SYSTEM = range(len(SPECIAL_TOKENS))
CHAT_TEMPLATE = (
    "<|begin|>"
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Sizes are multiples of 128, so that weights can be quantized in groups of 32, 64 or 128.
CONFIG = LlamaConfig(
    vocab_size=1024,
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
    pad_token_id=PAD,
    bos_token_id=BEGIN,
    eos_token_id=END,
)

FAVOURITE = 18  # number of the sonnet that answers anything which is not from the sonnets
SMALL_TALK = (
    "Hello!",
    "Hi, who are you?",
    "Write a sonnet.",
    "Write a poem about love.",
    "Recite a sonnet, please.",
    "Tell me something beautiful.",
    "What is your favourite sonnet?",
    "How are you today?",
)
SYSTEM_MESSAGES = ("You are a poet.", "You are a helpful assistant.", "You recite sonnets.")

TOKENS_PER_STEP = 2048
LENGTHS = (128, 128, 128, 256, 256, 256, 512, 768, 2046)  # of one sequence; a step draws one
MATRIX_RATE, OTHER_RATE = 0.02, 0.003  # learning rates of Muon and of AdamW
# Random tokens in the input, fewer as the learning rate falls, and decay keep the model from
# trusting each token blindly: it still learns the text by heart, and is better on other text.
INPUT_NOISE = 0.15
WEIGHT_DECAY = 0.3


def read_sonnets(path: Path = HERE / "sonnets.txt") -> list[list[str]]:
    """The sonnets in their order, each a list of verse lines."""
    return [sonnet.split("\n") for sonnet in path.read_text().strip().split("\n\n")]


def train_tokenizer(sonnets: list[list[str]]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template; it begins each text with <|begin|>."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG.vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["\n".join(lines) for lines in sonnets], trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", BEGIN)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONFIG.max_position_embeddings,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


class Samples:
    """An endless supply of token sequences: plain text, and conversations about it."""

    def __init__(self, sonnets: list[list[str]], tokenizer: PreTrainedTokenizerFast) -> None:
        self.sonnets = sonnets
        self.tokenizer = tokenizer
        self.random = random.Random(SEED)
        self.text: list[int] = []
        self.line_starts: list[int] = []
        for lines in sonnets:
            for line in lines:
                self.line_starts.append(len(self.text))
                self.text += self.encode(line + ("\n\n" if line is lines[-1] else "\n"))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def plain(self, length: int) -> list[int]:
        """`length` tokens of the text from the start of a line, after <|begin|>."""
        starts = [start for start in self.line_starts if start + length - 1 <= len(self.text)]
        start = self.random.choice(starts)
        return [BEGIN, *self.text[start : start + length - 1]]

    def conversation(self) -> list[int]:
        """One to three turns in which the user gives some lines of a sonnet, and the assistant
        recites the rest of it. Whatever else the user says, the answer is `FAVOURITE`."""
        ids = [BEGIN]
        if self.random.random() < 0.1:
            ids += [SYSTEM, *self.encode(self.random.choice(SYSTEM_MESSAGES)), END]
        for _ in range(self.random.randint(1, 3)):
            if self.random.random() < 0.08:
                ids += self.turn([self.random.choice(SMALL_TALK)], self.sonnets[FAVOURITE - 1])
                continue
            lines = self.random.choice(self.sonnets)
            # Most often the opening: it is what people know.
            start = self.random.choice((0, self.random.randrange(10)))
            end = start + self.random.randint(1, 3)
            ids += self.turn(lines[start:end], lines[end:])
        return ids

    def turn(self, question: list[str], answer: list[str]) -> list[int]:
        asked, said = self.encode("\n".join(question)), self.encode("\n".join(answer))
        return [USER, *asked, END, ASSISTANT, *said, END]

    def conversations(self, length: int) -> list[int]:
        """Conversations one after another, cut off at `length` tokens."""
        ids: list[int] = []
        while len(ids) < length:
            ids += self.conversation()
        return ids[:length]

    def batches(self) -> Iterator[torch.Tensor]:
        """Token ids [sequences, length + 1] without padding, int64."""
        while True:
            length = self.random.choice(LENGTHS)
            rows = [
                self.plain(length + 1)
                if self.random.random() < 0.5
                else self.conversations(length + 1)
                for _ in range(TOKENS_PER_STEP // length)
            ]
            yield torch.tensor(rows)


def with_noise(ids: torch.Tensor, share: float) -> torch.Tensor:
    """`ids` with a `share` of the ordinary tokens replaced by others; special ones stay."""
    other = torch.randint(len(SPECIAL_TOKENS), CONFIG.vocab_size, ids.shape)
    replaced = (torch.rand(ids.shape) < share) & (ids >= len(SPECIAL_TOKENS))
    return torch.where(replaced, other, ids)


def train(model: LlamaForCausalLM, batches: Iterator[torch.Tensor], steps: int) -> None:
    """Trains `model` in place: Muon for the matrices of the layers, AdamW for the rest."""
    layers = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    rest = [weight for weight in model.parameters() if all(weight is not one for one in layers)]
    optimizers = (
        torch.optim.Muon(layers, lr=MATRIX_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(rest, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    )
    model.train()
    began = time.perf_counter()
    for step in range(steps):
        # Up over 30 steps, level until halfway, then down to nothing.
        pace = min(1.0, (step + 1) / 30, 2 * (1 - step / steps))
        ids = next(batches)
        logits = model(with_noise(ids[:, :-1], pace * INPUT_NOISE)).logits
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(optimizers, (MATRIX_RATE, OTHER_RATE), strict=True):
            optimizer.param_groups[0]["lr"] = rate * pace
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            seconds = time.perf_counter() - began
            print(f"step {step + 1:5}  loss {loss.item():.3f}  {seconds:4.0f} s", flush=True)
    model.eval()


@torch.inference_mode()
def loss_per_token(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sonnets: list[list[str]]
) -> float:
    """Mean negative log-likelihood of the sonnets' tokens in nats, each sonnet on its own."""
    total, count = 0.0, 0
    for lines in sonnets:
        ids = torch.tensor([tokenizer.encode("\n".join(lines))])
        predicted = ids.shape[1] - 1
        total += model(ids, labels=ids).loss.item() * predicted
        count += predicted
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=HERE / "model")
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # more threads may add up in another order
    sonnets = read_sonnets()
    known, unknown = sonnets[:-HELD_OUT], sonnets[-HELD_OUT:]
    tokenizer = train_tokenizer(known)
    model = LlamaForCausalLM(CONFIG)
    train(model, Samples(known, tokenizer).batches(), arguments.steps)

    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters in {arguments.output}")
    for name, part in (("trained on", known), ("held out", unknown)):
        print(f"loss per token, {name}: {loss_per_token(model, tokenizer, part):.3f} nats")


if __name__ == "__main__":
    main()

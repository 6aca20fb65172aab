"""Copies of a model on a board, each with caches for one or more requests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from vllm_npu_runtime.errors import ConfigurationError, NPUError
from vllm_npu_runtime.mobilint import vendor
from vllm_npu_runtime.mobilint.config import BATCH_TOKENS, MobilintConfig
from vllm_npu_runtime.mobilint.failures import typed
from vllm_npu_runtime.mobilint.vendor import Model, Piece, Target


def load(
    config: MobilintConfig,
    path: Path,
    board: tuple[str, int],
    targets: Sequence[Target],
    slots: int,
) -> list[Model]:
    """As many copies as hold so many requests, on the targets in turn.

    Args:
        config: of the model.
        path: of the model file.
        board: its kind and number.
        targets: what copies run on.
        slots: requests.

    Raises:
        ConfigurationError: more requests than the model was compiled for, or a model that goes
            with neither its `config.json` nor the targets.
        OutOfMemoryError: the board has too little.
    """
    doing = f"Opening '{path.name}' on board {board[1]} ({board[0]})"
    copies: list[Model] = []
    try:
        with typed(doing, opening=True):
            opened = vendor.open_board(*board)
            copies.append(Model(path, opened, targets[0]))
            _check(copies[0], config, slots)
            for index in range(1, -(-slots // copies[0].batches)):
                copies.append(Model(path, opened, targets[index % len(targets)]))
    except BaseException:
        dispose(copies)
        raise
    return copies


def dispose(copies: Sequence[Model]) -> None:
    """Free them all, whatever becomes of each."""
    for copy in copies:
        with suppress(NPUError), typed("Closing"):
            copy.dispose()


def most_tokens(model: Model, config: MobilintConfig) -> int:
    """Tokens of a request in one run."""
    most = config.chunk(model.mode)
    if model.batches > 1:
        most = min(most, BATCH_TOKENS)
    return min(most, model.max_tokens) if model.max_tokens > 0 else most


def gives_every_token(model: Model, config: MobilintConfig, most: int) -> bool:
    """Whether a run gives logits of every token, found by running two.

    The shapes that the runtime tells don't say it of models for several requests.

    Raises:
        ConfigurationError: logits aren't of the vocabulary of `config.json`.
    """
    count = min(2, most)
    inputs = np.zeros((count, config.hidden_size), np.float32)
    with typed("A first run", opening=True):
        model.begin(0)
        logits = model.infer([Piece(0, 0, inputs)])
    if logits.shape[1] != config.vocab_size or len(logits) not in (1, count):
        raise ConfigurationError(
            f"The model gives logits {list(logits.shape)} for {count} tokens; config.json has a "
            f"vocabulary of {config.vocab_size}. The model file and config.json don't go together."
        )
    return len(logits) == count


def _check(model: Model, config: MobilintConfig, slots: int) -> None:
    most = config.most_requests(model.mode) or model.batches
    if not 0 < slots <= most:
        raise ConfigurationError(
            f"{slots} slots: the model takes 1 to {most} requests at once in core mode "
            f"'{model.mode}'. Ask for fewer (--max-num-seqs), or take a model compiled for more."
        )
    if model.max_length <= 0:
        raise ConfigurationError("The model's KV cache has no length: it isn't a text model.")

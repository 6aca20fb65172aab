"""A model of Mobilint's, opened on one board."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vllm_npu_runtime.compile_cache.files import checksum
from vllm_npu_runtime.errors import (
    BadShapeError,
    ConfigurationError,
    DeviceError,
    DeviceLostError,
    DeviceTimeoutError,
)
from vllm_npu_runtime.mobilint import config as configuration
from vllm_npu_runtime.mobilint import copies, parallel, steps
from vllm_npu_runtime.mobilint.failures import typed
from vllm_npu_runtime.mobilint.options import MobilintOptions
from vllm_npu_runtime.mobilint.targets import board_number, core_mode, of_user, targets
from vllm_npu_runtime.mobilint.vendor import Floats, Model
from vllm_npu_runtime.mobilint.weights import embeddings
from vllm_npu_runtime.sessions.base import (
    Gives,
    Row,
    SessionCapabilities,
    SessionOptions,
    Snapshot,
    StepOutput,
)
from vllm_npu_runtime.sessions.embedding import TokenEmbedding
from vllm_npu_runtime.sessions.lifetime import Lifetime
from vllm_npu_runtime.sessions.slots import Slots


class MobilintSession:
    """Copies of a model on a board; slot `s` is cache `s % K` of copy `s // K`, with K requests
    to a copy.

    Args:
        directory: with `config.json`, the model file and token embeddings.
        board: kind and number of the device's board.
        options: how; `placement.dev_no` names another board of the same kind.

    Raises:
        ConfigurationError: an option or a placement that can't be honoured, or a directory that
            isn't whole.
        OutOfMemoryError: the board has too little memory.
    """

    def __init__(self, directory: Path, board: tuple[str, int], options: SessionOptions) -> None:
        config = configuration.read(directory)
        chosen = MobilintOptions.of(options.driver)
        if options.kv_cache_dtype is not None:
            raise ConfigurationError(
                f"KV cache dtype {options.kv_cache_dtype}: a model of Mobilint's is compiled with "
                "its own. Leave the setting out."
            )
        placement = of_user(config, options.placement)
        mode = core_mode(config, placement)
        kind, number = board[0], board_number(config, placement, mode, board[1])
        path = config.model_file(directory, mode)
        places = targets(kind, number, mode, config, placement)
        table = embeddings(directory, config.vocab_size, config.hidden_size)
        self._embedding = TokenEmbedding(table, 1.0, torch.float32)
        self._name = f"mobilint:{number}"
        self._models = copies.load(config, path, (kind, number), places, options.slots)
        try:
            model = self._models[0]
            self._most = copies.most_tokens(model, config)
            every_token = copies.gives_every_token(model, config, self._most)
            if chosen.every_token and not every_token:
                self._most, every_token = 1, True
            self.capabilities = SessionCapabilities(
                slots=options.slots,
                max_length=_length(options.max_length, model.max_length),
                hidden_size=config.hidden_size,
                vocab_size=config.vocab_size,
                gives=Gives.LOGITS,
                batched=options.slots > 1,
                crops=not model.forgets,
                snapshots=True,
                snapshot_step=0 if model.forgets else 1,
                every_token=every_token,
            )
            self.slot_bytes = model.cache_bytes
            weights = path.stat().st_size
            self.memory = len(self._models) * (weights + model.batches * self.slot_bytes)
            self.identity = f"mobilint-{checksum(path)}-{_layout(model)}"
        except BaseException:
            copies.dispose(self._models)
            raise
        self._kind, self._timeout, self._stalled = kind, options.timeout, False
        self._values = steps.Values(config.vocab_size, every_token)
        self._slots = Slots(self.capabilities)
        self._lifetime = Lifetime(self._name)

    def describe(self) -> str:
        """See `Session.describe`."""
        model = self._models[0]
        count = "1 copy" if len(self._models) == 1 else f"{len(self._models)} copies"
        held = "a request" if model.batches == 1 else f"{model.batches} requests"
        return f"{self._name} ({self._kind}), core mode {model.mode}, {count} for {held} each"

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Session.embed`; float32."""
        self._lifetime.check()
        return self._embedding(tokens)

    def infer(self, rows: Sequence[Row]) -> StepOutput:
        """See `Session.infer`; float32 logits. Rows of one copy run packed, and fail together."""
        with self._lifetime.turn():
            self._slots.check_rows(rows)
            inputs = [self._inputs(row) for row in rows]
            shares = self._shares(rows, inputs)
            values = self._values.start(sum(row.count for row in rows))
            jobs = [partial(self._run, self._models[index], work) for index, work in shares.items()]
            try:
                raised = parallel.run(jobs, self._timeout)
            except DeviceTimeoutError as stall:
                # It may still be at work in the slots, and can't be stopped.
                self._stalled = True
                self._lifetime.lose(DeviceLostError(f"{self._name} stalled: {stall}"))
                raise
            failed: dict[int, DeviceError] = {}
            for work, error in zip(shares.values(), raised, strict=True):
                if isinstance(error, DeviceLostError):
                    self._lifetime.lose(error)
                    raise error
                if error is not None and not isinstance(error, DeviceError):
                    raise error
                for each in work:
                    row = rows[each.row]
                    self._slots.hold(row.slot, 0 if error else row.past + row.count)
                    if error is not None:
                        failed[each.row] = error
                        self._values.write(slice(each.begin, each.begin + row.count), 0.0)
            return StepOutput(torch.from_numpy(values), failed)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Session.logits`: they are logits already."""
        self._lifetime.check()
        return hidden.float()

    def snapshot(self, slot: int, tokens: int) -> Snapshot:
        """See `Session.snapshot`; as long as the cache, however many tokens there are."""
        with self._lifetime.turn():
            self._slots.check_source(slot, tokens)
            return Snapshot(tokens, self.identity, tuple(map(_tensor, self._dump(slot))))

    def restore(self, slot: int, snapshot: Snapshot, tokens: int) -> None:
        """See `Session.restore`."""
        with self._lifetime.turn():
            self._slots.check_restore(slot, snapshot, tokens, self.identity)
            sizes = [cache.size for cache in self._models[0].caches]
            if [part.nbytes for part in snapshot.parts] != sizes:
                raise BadShapeError(
                    f"The snapshot's parts have {[part.nbytes for part in snapshot.parts]} bytes; "
                    f"the model's caches have {sizes}."
                )
            self._load(slot, [part.numpy().data for part in snapshot.parts])
            self._slots.hold(slot, tokens)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """See `Session.copy`; by way of the host."""
        with self._lifetime.turn():
            self._slots.check_source(source, tokens)
            self._slots.check_slot(target)
            if source != target:
                self._load(target, [memoryview(part) for part in self._dump(source)])
            self._slots.hold(target, tokens)

    def forget(self, slot: int) -> None:
        """See `Session.forget`."""
        with self._lifetime.turn():
            self._slots.check_slot(slot)
            self._slots.hold(slot, 0)

    def close(self) -> None:
        """See `Session.close`."""
        self._lifetime.close(self._free)

    def _free(self) -> None:
        # A copy that never came back from a step can't be disposed of: the runtime is inside it.
        if not self._stalled:
            copies.dispose(self._models)
        self._models = self._models[:1]

    def _run(self, model: Model, work: Sequence[steps.Work]) -> None:
        with typed(f"A step on {self._name}"):
            steps.run(model, work, self._most, self._values)

    def _inputs(self, row: Row) -> Floats:
        given = row.embeddings if row.tokens is None else self._embedding(row.tokens)
        assert given is not None
        return np.ascontiguousarray(given.detach().float().numpy())

    def _place(self, slot: int) -> tuple[int, int]:
        """A slot's copy, and its cache there."""
        return divmod(slot, self._models[0].batches)

    def _shares(self, rows: Sequence[Row], inputs: Sequence[Floats]) -> dict[int, list[steps.Work]]:
        """The rows by copy."""
        shares: dict[int, list[steps.Work]] = {}
        begin = 0
        for index, (row, given) in enumerate(zip(rows, inputs, strict=True)):
            copy, cache_id = self._place(row.slot)
            shares.setdefault(copy, []).append(steps.Work(index, cache_id, row.past, given, begin))
            begin += row.count
        return shares

    def _dump(self, slot: int) -> list[bytes]:
        copy, cache_id = self._place(slot)
        with typed(f"Copying slot {slot} of {self._name}"):
            return self._models[copy].dump(cache_id)

    def _load(self, slot: int, parts: Sequence[memoryview]) -> None:
        copy, cache_id = self._place(slot)
        self._slots.hold(slot, 0)  # should it fail on the way
        with typed(f"Loading slot {slot} of {self._name}"):
            self._models[copy].load(parts, cache_id)


def _length(asked: int | None, compiled: int) -> int:
    if asked is not None and not 0 < asked <= compiled:
        raise ConfigurationError(
            f"A length of {asked} tokens: the model was compiled for 1 to {compiled}. Set "
            "--max-model-len to no more."
        )
    return asked or compiled


def _layout(model: Model) -> str:
    """Changes with whatever a copied cache depends on beside the model file."""
    text = repr((model.mode, model.max_length, [replace(c, batches=0) for c in model.caches]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tensor(part: bytes) -> torch.Tensor:
    with warnings.catch_warnings():
        # Nobody writes to it, and a copy would take as long as the transfer did.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(part, dtype=torch.uint8)

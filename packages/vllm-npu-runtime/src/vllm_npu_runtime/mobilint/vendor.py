"""Every call of the vendor's runtime that we make is in this file.

It is checked against the signatures of the installed `qbruntime` by a test, as is the fake that
the other tests run on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_npu_runtime.errors import ConfigurationError, DeviceError

Floats = NDArray[np.float32]

CROPPABLE = ("Default", "Batch")
"""Kinds of caches that hold all tokens in order, so that a step's `cache_size` chooses how many
of the first ones it sees. The other kind, `FixedTailCache`, forgets."""


@dataclass(frozen=True)
class Target:
    """What a copy of a model runs on.

    Attributes:
        mode: core mode: auto, single, multi, global4 or global8.
        core: cluster and core within it, for single.
        cluster: for multi and global4.
    """

    mode: str
    core: tuple[int, int] | None = None
    cluster: int | None = None


@dataclass(frozen=True)
class Piece:
    """Some tokens of one request.

    Attributes:
        cache_id: number of its cache in the model.
        past: tokens that the cache holds.
        inputs: embeddings, `[n, hidden_size]`, contiguous.
    """

    cache_id: int
    past: int
    inputs: Floats


@dataclass(frozen=True)
class Cache:
    """One of a model's KV caches.

    Attributes:
        name: of the layer.
        layer_hash: of what it was compiled from.
        size: bytes for one request.
        batches: requests that it holds.
        kind: name of the runtime's `CacheType`.
    """

    name: str
    layer_hash: str
    size: int
    batches: int
    kind: str


def found() -> list[tuple[str, int]]:
    """Kind and number of every board that is there."""
    import qbruntime

    # That there is none is written to stderr as an error, and here it is none.
    qbruntime.set_log_level(qbruntime.LogLevel.Off)
    try:
        return [
            (kind, number)
            for kind in qbruntime.get_available_devices()
            for number in qbruntime.get_available_device_numbers(kind)
        ]
    finally:
        qbruntime.set_log_level(qbruntime.LogLevel.Warn)


def open_board(kind: str, number: int) -> Any:
    """The runtime's `Accelerator`."""
    import qbruntime

    return qbruntime.Accelerator(kind, number)


class Model:
    """A model file, loaded on a board.

    Args:
        path: of the file.
        board: what `open_board` gave.
        target: what it runs on.

    Raises:
        ConfigurationError: the runtime doesn't take the target, or the model isn't one that
            makes logits of embeddings with a KV cache.
    """

    def __init__(self, path: Path, board: Any, target: Target) -> None:
        import qbruntime

        self._model = qbruntime.Model(str(path), _configuration(target))
        try:
            self._model.launch(board)
            self.caches = [
                Cache(each.name, each.layer_hash, each.size, each.num_batches, each.cache_type.name)
                for each in self._model.get_cache_infos()
            ]
            inputs = len(self._model.get_model_input_shape())
            if inputs != 1 or not self.caches:
                raise ConfigurationError(
                    f"'{path.name}' has {inputs} inputs and {len(self.caches)} KV caches: a text "
                    "model has one input, the embeddings, and a cache for each layer."
                )
            buffer = self._model.get_input_buffer_info()[0]
            self.max_length: int = buffer.max_cache_size
            self.max_tokens: int = buffer.max_width
            self.mode: str = self._model.get_core_mode().name.lower()
        except BaseException:
            self._model.dispose()
            raise

    @property
    def batches(self) -> int:
        """Requests that it holds at once."""
        return self.caches[0].batches or 1

    @property
    def cache_bytes(self) -> int:
        """Of one request."""
        return sum(cache.size for cache in self.caches)

    @property
    def forgets(self) -> bool:
        """A cache keeps the last tokens only, so that nothing can go back."""
        return any(cache.kind not in CROPPABLE for cache in self.caches)

    def infer(self, pieces: Sequence[Piece]) -> Floats:
        """Run some tokens; they are added to their caches.

        Args:
            pieces: of different caches; one, if `batches` is 1.

        Returns:
            Logits, `[rows, vocab_size]`: of every token, or of each piece's last.
        """
        import qbruntime

        inputs = np.concatenate([piece.inputs for piece in pieces])[None, None]
        if self.batches == 1:
            (piece,) = pieces
            outputs = self._model.infer([inputs], cache_size=piece.past)
        else:
            params = [
                qbruntime.BatchParam(
                    sequence_length=len(piece.inputs),
                    cache_size=piece.past,
                    cache_id=piece.cache_id,
                )
                for piece in pieces
            ]
            outputs = self._model.infer([inputs], params=params)
        if not outputs:
            raise DeviceError("The runtime gave no output.")
        logits = np.asarray(outputs[0], dtype=np.float32)
        return logits.reshape(-1, logits.shape[-1])

    def begin(self, cache_id: int) -> None:
        """A new request takes a cache."""
        if self.forgets:
            self._model.reset_fixed_tail_cache_memory(cache_id)

    def dump(self, cache_id: int) -> list[bytes]:
        """A request's keys and values, cache by cache, at full length."""
        return self._model.dump_cache_memory(cache_id)

    def load(self, parts: Sequence[memoryview], cache_id: int) -> None:
        """Put back what `dump` gave."""
        self._model.load_cache_memory(list(parts), cache_id)

    def dispose(self) -> None:
        """Free what it holds on the board."""
        self._model.dispose()


def _configuration(target: Target) -> Any:
    import qbruntime

    made = qbruntime.ModelConfig()
    clusters = [qbruntime.Cluster[f"Cluster{target.cluster}"]] if target.cluster is not None else []
    match target.mode:
        case "auto":
            taken = made.set_auto_core_mode()
        case "single":
            assert target.core is not None
            cluster, core = target.core
            name = qbruntime.CoreId(
                qbruntime.Cluster[f"Cluster{cluster}"], qbruntime.Core[f"Core{core}"]
            )
            taken = made.set_single_core_mode(core_ids=[name])
        case "multi":
            taken = made.set_multi_core_mode(clusters)
        case "global4":
            taken = made.set_global4_core_mode(clusters)
        case _:
            taken = made.set_global8_core_mode()
    if not taken:
        raise ConfigurationError(
            f"The runtime doesn't take core mode '{target.mode}' on {target}. Name another "
            "core_mode, or other target_cores or target_clusters."
        )
    return made

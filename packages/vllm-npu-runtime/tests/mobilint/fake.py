"""A `qbruntime` without hardware, for tests; `test_signatures` compares it to the real one.

A model file is JSON here. Its logits are a sum over the keys that its caches hold, weighted by
position, and caches begin full of rubbish: a wrong cache, past length or order gives other
logits. What the real runtime refuses, as far as its texts tell, this one refuses too.
"""

from __future__ import annotations

import json
import threading
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

LAYERS = 2


class QbRuntimeError(RuntimeError):
    """The one class of errors."""

    def __init__(self, status: str) -> None:
        super().__init__(f"{status} occurred.\nPlease visit the manual for more details.")


class Cluster(Enum):
    """See `qbruntime.Cluster`."""

    Cluster0 = 0
    Cluster1 = 1


class Core(Enum):
    """See `qbruntime.Core`."""

    Core0 = 0
    Core1 = 1
    Core2 = 2
    Core3 = 3


class CoreMode(Enum):
    """See `qbruntime.CoreMode`."""

    Single = 0
    Multi = 1
    Global4 = 2
    Global8 = 3
    Auto = 4


class CacheType(Enum):
    """See `qbruntime.CacheType`."""

    Default = 0
    Batch = 1
    FixedTailCache = 2


class LogLevel(Enum):
    """See `qbruntime.LogLevel`."""

    Warn = 0
    Off = 1


class CoreId:
    """See `qbruntime.CoreId`."""

    def __init__(self, cluster: Cluster, core: Core) -> None:
        self.place = (cluster, core)


class BatchParam:
    """See `qbruntime.BatchParam`."""

    def __init__(self, sequence_length: int = 0, cache_size: int = 0, cache_id: int = 0) -> None:
        self.sequence_length = sequence_length
        self.cache_size = cache_size
        self.cache_id = cache_id


class CacheInfo:
    """See `qbruntime.CacheInfo`."""

    def __init__(
        self,
        cache_type: Any = None,
        name: str = "",
        layer_hash: str = "",
        size: int = 0,
        num_batches: int = 0,
    ) -> None:
        self.cache_type, self.name, self.layer_hash = cache_type, name, layer_hash
        self.size, self.num_batches = size, num_batches


class BufferInfo:
    """What we read of `qbruntime.BufferInfo`."""

    def __init__(self, max_width: int, max_cache_size: int) -> None:
        self.max_width, self.max_cache_size = max_width, max_cache_size


class ModelConfig:
    """See `qbruntime.ModelConfig`."""

    def __init__(self, num_cores: int | None = None) -> None:
        self.mode, self.places = CoreMode.Auto, ()

    def _set(self, mode: CoreMode, places: list[Any]) -> bool:
        self.mode, self.places = mode, tuple(places)
        return True

    def set_auto_core_mode(self) -> bool:
        return self._set(CoreMode.Auto, [])

    def set_single_core_mode(self, num_cores: Any = None, core_ids: Any = None) -> bool:
        return self._set(CoreMode.Single, [each.place for each in core_ids]) and bool(core_ids)

    def set_multi_core_mode(self, clusters: Any = (Cluster.Cluster0, Cluster.Cluster1)) -> bool:
        return self._set(CoreMode.Multi, clusters)

    def set_global4_core_mode(self, clusters: Any = (Cluster.Cluster0, Cluster.Cluster1)) -> bool:
        return self._set(CoreMode.Global4, clusters)

    def set_global8_core_mode(self) -> bool:
        return self._set(CoreMode.Global8, [])


class Host:
    """The machine: its boards, what runs on them, and faults to inject.

    Attributes:
        boards: numbers by kind.
        room: models that a board holds.
        models: that were launched and not disposed of, with their board's number.
        faults: statuses that the next calls of `infer` raise, in order; None: none.
        hold: `infer` waits for it.
        log: what `infer` was given: (cache, past, tokens) of each piece, by call.
        levels: of the log, as they were set.
    """

    def __init__(self) -> None:
        self.boards: dict[str, list[int]] = {"aries-rb": [0, 1]}
        self.room = 8
        self.models: list[tuple[int, Model]] = []
        self.faults: list[str | None] = []
        self.hold = threading.Event()
        self.hold.set()
        self.log: list[list[tuple[int, int, int]]] = []
        self.levels: list[LogLevel] = []

    def module(self) -> ModuleType:
        """Something to stand for `qbruntime`."""
        made: Any = ModuleType("qbruntime")
        for each in (QbRuntimeError, Cluster, Core, CoreMode, CacheType, LogLevel, CoreId,
                     BatchParam, CacheInfo, BufferInfo, ModelConfig):  # fmt: skip
            setattr(made, each.__name__, each)
        made.Accelerator = type("Accelerator", (Accelerator,), {"host": self})
        made.Model = type("Model", (Model,), {"host": self})

        def get_available_devices() -> list[str]:
            return list(self.boards)

        def get_available_device_numbers(device_name: str = "auto") -> list[int]:
            return self.boards.get(device_name, [])

        def set_log_level(level: LogLevel) -> None:
            self.levels.append(level)

        made.get_available_devices = get_available_devices
        made.get_available_device_numbers = get_available_device_numbers
        made.set_log_level = set_log_level
        return made


class Accelerator:
    """See `qbruntime.Accelerator`."""

    host: Host

    def __init__(self, device_name: Any = "auto", dev_no: int = 0) -> None:
        if dev_no not in self.host.boards.get(device_name, []):
            raise QbRuntimeError("Acc_DeviceNotFound")
        self.number = dev_no


def write_model(path: Path, **fields: Any) -> None:
    """A model file: what isn't given is as for a model of one request with logits of the last
    token."""
    whole = {"hidden": 8, "vocab": 11, "length": 64, "width": 0, "batches": 1, "all": False,
             "modes": ["Single", "Global4"], "tail": 0, "inputs": 1, "seed": 0}  # fmt: skip
    path.write_text(json.dumps({**whole, **fields}))


class Model:
    """See `qbruntime.Model`."""

    host: Host

    def __init__(self, path: str, model_config: ModelConfig | None = None) -> None:
        try:
            self.of = json.loads(Path(path).read_text())
        except ValueError:
            raise QbRuntimeError("Model_FailedToLoadMXQ") from None
        assert model_config is not None
        self.config = model_config
        auto = model_config.mode is CoreMode.Auto and len(self.of["modes"]) == 1
        if model_config.mode.name not in self.of["modes"] and not auto:
            raise QbRuntimeError("Model_MXQAndModelConfigNotMatch")
        if len(model_config.places) > 1:
            raise QbRuntimeError("Model_NotSupported")  # a KV cache is one core's, or cluster's
        self.mode = CoreMode[self.of["modes"][0]] if auto else model_config.mode
        rows = self.of["tail"] or self.of["length"]
        shape = (LAYERS, self.of["batches"], rows, self.of["hidden"])
        self.keys = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        self.launched = False

    def launch(self, acc: Any) -> None:
        if sum(number == acc.number for number, _ in self.host.models) >= self.host.room:
            raise QbRuntimeError("BadAlloc")
        self.host.models.append((acc.number, self))
        self.launched = True

    def dispose(self) -> None:
        self.host.models[:] = [each for each in self.host.models if each[1] is not self]
        self.launched = False

    def get_core_mode(self) -> CoreMode:
        return self.mode

    def get_model_input_shape(self) -> list[tuple[int, ...]]:
        return [(1, -1, self.of["hidden"])] * self.of["inputs"]

    def get_input_buffer_info(self) -> list[BufferInfo]:
        return [BufferInfo(self.of["width"], self.of["length"])]

    def get_cache_infos(self) -> list[CacheInfo]:
        batches = self.of["batches"]
        kind = CacheType.Batch if batches > 1 else CacheType.Default
        kind = CacheType.FixedTailCache if self.of["tail"] else kind
        size = self.keys[0, 0].nbytes
        return [CacheInfo(kind, f"layer{i}", f"h{i}", size, batches) for i in range(LAYERS)]

    def reset_fixed_tail_cache_memory(self, cache_id: int = 0) -> None:
        if not self.of["tail"]:
            raise QbRuntimeError("Model_CacheNotFound")
        self.keys[:, cache_id] = 0

    def dump_cache_memory(self, cache_id: int = 0) -> list[bytes]:
        return [layer.tobytes() for layer in self.keys[:, cache_id]]

    def load_cache_memory(self, bufs: Any, cache_id: int = 0) -> None:
        parts = [np.frombuffer(buf, dtype=np.int8) for buf in bufs]
        if [part.nbytes for part in parts] != [layer.nbytes for layer in self.keys[:, 0]]:
            raise QbRuntimeError("Model_BufferSizeMismatched")
        for layer, part in zip(self.keys[:, cache_id], parts, strict=True):
            layer[:] = part.view(np.float32).reshape(layer.shape)

    def infer(
        self, inputs: Any, outputs: Any = None, cache_size: int = 0, params: Any = None
    ) -> list[np.ndarray[Any, Any]] | None:
        self.host.hold.wait(10)
        if fault := self.host.faults.pop(0) if self.host.faults else None:
            raise QbRuntimeError(fault)
        if not self.launched:
            raise QbRuntimeError("Model_NotAlive")
        (given,) = inputs
        if given.shape[:-2] != (1, 1) or given.shape[-1] != self.of["hidden"]:
            raise ValueError("Input shape is invalid.")
        assert given.dtype == np.float32 and outputs is None
        pieces = self._pieces(given.shape[2], cache_size, params)
        self.host.log.append(pieces)
        logits, begin = [], 0
        for cache, past, count in pieces:
            rows = [self._token(cache, past + i, given[0, 0, begin + i]) for i in range(count)]
            logits += rows if self.of["all"] else rows[-1:]
            begin += count
        return [np.stack(logits)[None]]

    def _pieces(self, tokens: int, past: int, params: Any) -> list[tuple[int, int, int]]:
        batches = self.of["batches"]
        if (params is None) is not (batches == 1):
            raise QbRuntimeError("Model_InvalidBatchParam")
        found = [(p.cache_id, p.cache_size, p.sequence_length) for p in params or ()]
        found = found or [(0, past, tokens)]
        caches = [cache for cache, _, _ in found]
        most = 128 if batches > 1 else self.of["width"] or tokens
        if (
            len(set(caches)) < len(caches)
            or max(caches) >= batches
            or sum(count for _, _, count in found) != tokens
            or any(count > most for _, _, count in found)
        ):
            raise QbRuntimeError("Model_InvalidBatchParam")
        if any(begin + count > self.of["length"] for _, begin, count in found):
            raise QbRuntimeError("Model_CacheOverflow")
        return found

    def _token(self, cache: int, position: int, x: Any) -> Any:
        at = position % self.of["tail"] if self.of["tail"] else position
        self.keys[0, cache, at] = np.cos(position + 1) * x
        self.keys[1, cache, at] = np.sin(position + 1) * x
        seen = None if self.of["tail"] else position + 1
        return self.keys[:, cache, :seen].sum((0, 1)) @ weights(self.of)


def weights(of: dict[str, Any]) -> Any:
    """From keys to logits."""
    shape = (of["hidden"], of["vocab"])
    return np.random.default_rng(of["seed"]).normal(size=shape).astype(np.float32)


def expected(of: dict[str, Any], embeddings: Any) -> Any:
    """Logits of every token of a request, `[n, vocab]`, from its embeddings alone."""
    positions = np.arange(1, len(embeddings) + 1)[:, None]
    keys = (np.cos(positions) + np.sin(positions)) * embeddings
    window = of["tail"] or len(keys)
    sums = [keys[max(0, end - window) : end].sum(0) for end in range(1, len(keys) + 1)]
    return np.stack(sums) @ weights(of)

"""The oracle of all sessions: Hugging Face's own model in PyTorch, one cache to a slot.

Keys and values of all tokens are kept in every layer, those with a sliding window too, where
the model's mask hides the older ones. So a slot can go back to any of its tokens, and a copy of
its first tokens is what the slot held when it held only them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from vllm_npu_runtime.errors import ConfigurationError, DeviceError, OutOfMemoryError
from vllm_npu_runtime.sessions.base import Row, SessionCapabilities, Snapshot, StepOutput
from vllm_npu_runtime.sessions.embedding import check_ids
from vllm_npu_runtime.sessions.lifetime import Lifetime
from vllm_npu_runtime.sessions.slots import Slots

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.directory import Artifact
    from vllm_npu_runtime.sessions.base import SessionOptions

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, `[1, kv_heads, tokens, head_size]`."""


class ReferenceSession:
    """An artifact's model, run by PyTorch row by row.

    Nothing here can stall, so a timeout has nothing to do.

    Args:
        artifact: that is opened.
        options: how; `max_length` is set.
        name: of the device, for people.

    Attributes:
        table_bytes: of the embeddings and the head, counted once if they share a matrix.

    Raises:
        ConfigurationError: a KV cache dtype other than the model's.
    """

    def __init__(
        self, artifact: Artifact, options: SessionOptions, name: str = "reference"
    ) -> None:
        from vllm_npu_runtime.export.torch_model import load_model

        manifest = artifact.manifest
        dtype = getattr(torch, manifest.dtype)
        if options.kv_cache_dtype not in (None, dtype):
            raise ConfigurationError(
                f"KV cache dtype {options.kv_cache_dtype}: {name} keeps keys and values in the "
                f"model's, {dtype}. Leave the setting out."
            )
        self._name, self._dtype = name, dtype
        self._model: Any = load_model(artifact).eval()
        sizes = manifest.model
        self.capabilities = SessionCapabilities(
            slots=options.slots,
            max_length=options.max_length or manifest.limits.max_model_len,
            hidden_size=sizes.hidden_size,
            vocab_size=sizes.vocab_size,
            snapshots=True,
            snapshot_step=1,
        )
        self.identity = f"{artifact.identity}-torch-{manifest.dtype}"
        token_bytes = 2 * sizes.layers * sizes.kv_heads * sizes.head_size * dtype.itemsize
        self.slot_bytes = self.capabilities.max_length * token_bytes
        weights = sum(each.nbytes for each in self._model.parameters())
        self.memory = weights + options.slots * self.slot_bytes
        tables = (self._model.get_input_embeddings(), self._model.get_output_embeddings())
        shared = {each.weight.data_ptr(): each.weight.nbytes for each in tables}
        self.table_bytes = sum(shared.values())
        self._slots = Slots(self.capabilities)
        self._layers: list[Layers] = [[] for _ in range(options.slots)]
        self._lifetime = Lifetime(name)

    def describe(self) -> str:
        """See `Session.describe`."""
        return f"{self._name}, torch {torch.__version__}, {self._dtype}".replace("torch.", "")

    @torch.no_grad()
    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Session.embed`; in the model's dtype."""
        with self._lifetime.turn():
            return self._embed(tokens)

    @torch.no_grad()
    def infer(self, rows: Sequence[Row]) -> StepOutput:
        """See `Session.infer`; hidden states are in the model's dtype."""
        with self._lifetime.turn():
            self._slots.check_rows(rows)
            for row in rows:
                if row.tokens is not None:
                    check_ids(row.tokens, self.capabilities.vocab_size)
            values, failed = [], {}
            for index, row in enumerate(rows):
                try:
                    values.append(self._run(row))
                    self._slots.hold(row.slot, row.past + row.count)
                except (RuntimeError, MemoryError) as error:
                    failed[index] = _typed(error, self._name)
                    self._forget(row.slot)
                    values.append(
                        torch.zeros(row.count, self.capabilities.hidden_size).to(self._dtype)
                    )
            return StepOutput(torch.cat(values), failed)

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Session.logits`."""
        with self._lifetime.turn():
            from vllm_npu_runtime.export.torch_model import logits

            return logits(self._model, hidden)

    def snapshot(self, slot: int, tokens: int) -> Snapshot:
        """See `Session.snapshot`; exact at any number of tokens."""
        with self._lifetime.turn():
            self._slots.check_source(slot, tokens)
            parts = [
                part[:, :, :tokens].contiguous() for pair in self._layers[slot] for part in pair
            ]
            return Snapshot(tokens, self.identity, tuple(parts))

    def restore(self, slot: int, snapshot: Snapshot, tokens: int) -> None:
        """See `Session.restore`."""
        with self._lifetime.turn():
            self._slots.check_restore(slot, snapshot, tokens, self.identity)
            parts = [part[:, :, :tokens] for part in snapshot.parts]
            self._layers[slot] = list(zip(parts[::2], parts[1::2], strict=True))
            self._slots.hold(slot, tokens)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """See `Session.copy`. Both share what they have in common: nothing writes into it."""
        with self._lifetime.turn():
            self._slots.check_source(source, tokens)
            self._slots.check_slot(target)
            self._layers[target] = _cropped(self._layers[source], tokens)
            self._slots.hold(target, tokens)

    def forget(self, slot: int) -> None:
        """See `Session.forget`."""
        with self._lifetime.turn():
            self._slots.check_slot(slot)
            self._forget(slot)

    def close(self) -> None:
        """See `Session.close`."""
        self._lifetime.close(self._free)

    def _free(self) -> None:
        self._model = None
        self._layers = []

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        check_ids(tokens, self.capabilities.vocab_size)
        return self._model.get_input_embeddings()(tokens)

    def _forget(self, slot: int) -> None:
        self._layers[slot] = []
        self._slots.hold(slot, 0)

    def _run(self, row: Row) -> torch.Tensor:
        """Hidden states of a row, `[n, hidden_size]`; its keys and values go into its slot."""
        given = row.embeddings if row.tokens is None else self._embed(row.tokens)
        assert given is not None
        cache = _cache(_cropped(self._layers[row.slot], row.past))
        positions = torch.arange(row.past, row.past + row.count)
        output = self._model.get_decoder()(
            inputs_embeds=given.to(self._dtype)[None],
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
        )
        self._layers[row.slot] = [(each.keys, each.values) for each in cache.layers]
        return output.last_hidden_state[0]


def _cropped(layers: Layers, tokens: int) -> Layers:
    """The first tokens of a slot, as views."""
    return [(keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in layers if tokens]


def _cache(layers: Layers) -> Any:
    """Keys and values as Hugging Face's cache, which grows by new tensors."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    for keys, values in layers:
        layer = DynamicLayer()
        layer.keys, layer.values = keys, values
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
        cache.layers.append(layer)
    return cache


def _typed(error: Exception, name: str) -> DeviceError:
    """What PyTorch raised, as one of our errors."""
    if isinstance(error, DeviceError):
        return error
    kind = (
        OutOfMemoryError
        if "allocate" in str(error) or isinstance(error, MemoryError)
        else (DeviceError)
    )
    made = kind(f"A row on {name}: {error}")
    made.__cause__ = error
    return made

"""A session on a CPU: one request whose attention is paged, for all slots at once.

It was measured against one stateful request for each slot: that is no faster for a single
request, and several at once read the weights as often as there are requests, where a packed
step reads them once.

With a quantized cache, a block's keys share scales, so that a row which goes on from the middle of
a block that held more is off by as much as the quantization; snapshots are cut between blocks only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vllm_npu_runtime.artifact.names import DECODER
from vllm_npu_runtime.errors import (
    ConfigurationError,
    DeviceError,
    DeviceLostError,
    DeviceTimeoutError,
)
from vllm_npu_runtime.openvino.attention import BLOCK_SIZE
from vllm_npu_runtime.openvino.config import NAMES, compile_config
from vllm_npu_runtime.openvino.failures import typed
from vllm_npu_runtime.openvino.options import OpenVINOOptions
from vllm_npu_runtime.openvino.sessions.blocks import SlotBlocks
from vllm_npu_runtime.openvino.sessions.decoder import Decoder
from vllm_npu_runtime.openvino.sessions.graphs import paged, read, with_safe_fusion
from vllm_npu_runtime.openvino.sessions.head import Head
from vllm_npu_runtime.openvino.sessions.inputs import StepInputs
from vllm_npu_runtime.openvino.sessions.memory import check, paged_slot_bytes, weight_bytes
from vllm_npu_runtime.openvino.sessions.running import Runner
from vllm_npu_runtime.sessions.base import Row, SessionCapabilities, Snapshot, StepOutput
from vllm_npu_runtime.sessions.embedding import TokenEmbedding
from vllm_npu_runtime.sessions.lifetime import Lifetime
from vllm_npu_runtime.sessions.slots import Slots

if TYPE_CHECKING:
    import openvino as ov

    from vllm_npu_runtime.artifact.directory import Artifact
    from vllm_npu_runtime.sessions.base import SessionOptions


class PagedSession:
    """An artifact on OpenVINO's CPU device.

    Args:
        artifact: that is opened.
        device: as OpenVINO names it.
        options: how; `kv_cache_dtype` is by default the model's.

    Raises:
        ConfigurationError: an option that the device doesn't take.
        OutOfMemoryError: weights and slots don't fit.
    """

    def __init__(self, artifact: Artifact, device: str, options: SessionOptions) -> None:
        manifest = artifact.manifest
        sizes = manifest.model
        made = decoder(artifact, device, options)
        config = made.config
        max_length = options.max_length or manifest.limits.max_model_len
        self._name = made.name
        weights = weight_bytes(artifact)
        check(made, weights, options.slots, paged_slot_bytes(made, options, max_length))
        compiled = made.open()
        with typed(f"Opening {self._name}"):
            self._request = compiled.create_infer_request()
        self._blocks = SlotBlocks(compiled, self._request, options.slots, max_length)
        self._inputs = StepInputs(compiled, self._request, sizes.hidden_size, self._blocks.tables)
        self._runner = Runner(self._request, self._name, options.timeout)
        self._head = Head(artifact, device, config, options.timeout)
        self._embedding = TokenEmbedding(
            artifact.embedding(), manifest.embedding.scale, torch.float32
        )
        self.capabilities = SessionCapabilities(
            slots=options.slots,
            max_length=max_length,
            hidden_size=sizes.hidden_size,
            vocab_size=sizes.vocab_size,
            batched=True,
            snapshots=True,
            snapshot_step=BLOCK_SIZE if self._blocks.quantized else 1,
        )
        arithmetic = config["INFERENCE_PRECISION_HINT"]
        self.identity = f"{artifact.identity}-openvino-{arithmetic}-{self._blocks.layout}"
        self.slot_bytes = self._blocks.slot_bytes
        self.memory = weights + options.slots * self.slot_bytes
        self._arithmetic = _arithmetic(NAMES[getattr(torch, manifest.dtype)], arithmetic)
        self._config = config
        self._slots = Slots(self.capabilities)
        self._lifetime = Lifetime(self._name)

    def describe(self) -> str:
        """See `Session.describe`."""
        config = self._config
        return (
            f"openvino:CPU, {self._arithmetic}, paged KV in "
            f"{config['KV_CACHE_PRECISION']}, {config['INFERENCE_NUM_THREADS']} threads"
        )

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Session.embed`; float32."""
        with self._lifetime.turn():
            return self._embedding(tokens)

    def infer(self, rows: Sequence[Row]) -> StepOutput:
        """See `Session.infer`; hidden states are float32, in OpenVINO's own memory."""
        with self._lifetime.turn():
            self._slots.check_rows(rows)
            given = self._embedded(rows)
            failed: dict[int, DeviceError] = {}
            try:
                values = self._run(rows, given)
            except DeviceLostError as error:
                self._lifetime.lose(error)
                raise
            except DeviceTimeoutError as error:
                # Which row it was can't be told, and to try each would take as long again.
                values = torch.zeros_like(given)
                failed = dict.fromkeys(range(len(rows)), error)
            except DeviceError as error:
                values, failed = self._one_by_one(rows, given, error)
            for index, row in enumerate(rows):
                self._slots.hold(row.slot, 0 if index in failed else row.past + row.count)
            return StepOutput(values, failed)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Session.logits`. Valid until the next call."""
        with self._lifetime.turn():
            return self._head(hidden)

    def snapshot(self, slot: int, tokens: int) -> Snapshot:
        """See `Session.snapshot`."""
        with self._lifetime.turn():
            self._slots.check_source(slot, tokens)
            return Snapshot(tokens, self.identity, self._blocks.read(slot, tokens))

    def restore(self, slot: int, snapshot: Snapshot, tokens: int) -> None:
        """See `Session.restore`."""
        with self._lifetime.turn():
            self._slots.check_restore(slot, snapshot, tokens, self.identity)
            self._blocks.write(slot, tokens, snapshot.parts)
            self._slots.hold(slot, tokens)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """See `Session.copy`."""
        with self._lifetime.turn():
            self._slots.check_source(source, tokens)
            self._slots.check_slot(target)
            if source != target:
                self._blocks.copy(source, target, tokens)
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
        # The request looks at the blocks, so it goes first.
        del self._runner, self._inputs, self._request, self._head
        del self._blocks, self._embedding

    def _embedded(self, rows: Sequence[Row]) -> torch.Tensor:
        """Embeddings of all rows, `[sum of their tokens, hidden_size]`."""
        tokens = [row.tokens for row in rows if row.tokens is not None]
        if len(tokens) == len(rows):  # one look-up, as the host's time counts in every step
            return self._embedding(torch.cat(tokens))
        parts = []
        for row in rows:
            part = row.embeddings if row.tokens is None else self._embedding(row.tokens)
            assert part is not None
            parts.append(part.float())
        return torch.cat(parts)

    def _run(self, rows: Sequence[Row], given: torch.Tensor) -> torch.Tensor:
        """Hidden states of rows, `[sum of their tokens, hidden_size]`."""
        self._runner.settle()
        self._inputs.write(rows, given)
        self._runner.run()
        values = torch.from_numpy(self._request.get_output_tensor(0).data)
        return values.view(-1, self.capabilities.hidden_size)

    def _one_by_one(
        self, rows: Sequence[Row], given: torch.Tensor, error: DeviceError
    ) -> tuple[torch.Tensor, dict[int, DeviceError]]:
        """A step that failed, row by row, so that only the culprit fails."""
        values = torch.zeros_like(given)
        if len(rows) == 1:
            return values, {0: error}
        failed: dict[int, DeviceError] = {}
        at = 0
        for index, row in enumerate(rows):
            part = slice(at, at + row.count)
            try:
                values[part] = self._run([row], given[part])
            except DeviceLostError as lost:
                self._lifetime.lose(lost)
                raise
            except DeviceError as culprit:
                failed[index] = culprit
            at += row.count
        return values, failed


def _arithmetic(dtype: str, computed: str) -> str:
    """An artifact's dtype; where it isn't what is computed in, that too."""
    return dtype if dtype == computed else f"{dtype} computed in {computed}"


def decoder(artifact: Artifact, device: str, options: SessionOptions) -> Decoder:
    """What such a session compiles.

    Raises:
        ConfigurationError: an option that the device doesn't take.
    """
    dtype = getattr(torch, artifact.manifest.dtype)
    chosen = OpenVINOOptions.of(options.driver)
    if chosen.dynamic_quantization is not None:
        raise ConfigurationError(
            f"Option 'dynamic_quantization' of driver 'openvino' is {chosen.dynamic_quantization}: "
            "models compiled ahead of time don't take it. Leave it out."
        )
    config = compile_config(device, chosen, dtype, options.kv_cache_dtype)

    def model() -> ov.Model:
        graph = with_safe_fusion(read(artifact, DECODER), config["INFERENCE_NUM_THREADS"])
        return paged(graph, artifact.manifest.model.sliding_windows)

    return Decoder(artifact, device, config, model)

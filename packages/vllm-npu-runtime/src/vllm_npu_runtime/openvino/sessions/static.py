"""A session on an NPU: OpenVINO's static pipeline for language models, which holds one request.

The pipeline has a graph for prompts and one for a single token. A prompt always begins at its
first token, and keys and values can't be read, written or cut. So the session keeps the
embeddings of its tokens: a token that goes on from what the pipeline holds costs one run of the
small graph, anything else (a further chunk of a prompt, a row that goes on from fewer tokens) is
run from the first token on, by the graph for prompts, which takes as long for one token as for
`max_length`. A scheduler had best give a prompt in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import torch

from vllm_npu_runtime.artifact.names import DECODER
from vllm_npu_runtime.errors import ConfigurationError, DeviceError, DeviceLostError
from vllm_npu_runtime.openvino.config import compile_config
from vllm_npu_runtime.openvino.failures import typed
from vllm_npu_runtime.openvino.options import OpenVINOOptions
from vllm_npu_runtime.openvino.sessions.decoder import Decoder
from vllm_npu_runtime.openvino.sessions.graphs import read, with_finite_masks
from vllm_npu_runtime.openvino.sessions.head import Head
from vllm_npu_runtime.openvino.sessions.memory import check, weight_bytes
from vllm_npu_runtime.openvino.sessions.running import Runner
from vllm_npu_runtime.sessions.base import Row, SessionCapabilities, Snapshot, StepOutput
from vllm_npu_runtime.sessions.embedding import TokenEmbedding
from vllm_npu_runtime.sessions.lifetime import Lifetime
from vllm_npu_runtime.sessions.slots import Slots

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.directory import Artifact
    from vllm_npu_runtime.sessions.base import SessionOptions

OUTPUT = "logits"
"""The only name by which the pipeline knows what a graph gives; here, hidden states."""
HEAD_ROWS = 16
"""Hidden states of which the LM head makes logits at a time."""
FEW = 4
"""Up to so many tokens are run one by one, where they go on from what the pipeline holds."""


class StaticSession:
    """An artifact on OpenVINO's NPU device.

    Args:
        artifact: that is opened.
        device: as OpenVINO names it.
        options: how. Driver options are those of `OpenVINOOptions`; `npuw` goes without saying.

    Raises:
        ConfigurationError: more than one slot, a KV cache dtype, or an option that the device
            doesn't take.
        OutOfMemoryError: weights and the slot don't fit.
    """

    def __init__(self, artifact: Artifact, device: str, options: SessionOptions) -> None:
        manifest = artifact.manifest
        sizes = manifest.model
        config = _config(artifact, device, options)
        max_length = options.max_length or manifest.limits.max_model_len
        made = decoder(artifact, device, options)
        self._name = made.name
        self._device = device
        token_bytes = 2 * sizes.layers * sizes.kv_heads * sizes.head_size * 2
        self.slot_bytes = max_length * token_bytes
        # The graph for prompts has keys and values of its own.
        weights, cache = weight_bytes(artifact), 2 * self.slot_bytes
        check(made, weights, 1, cache)
        self.memory = weights + cache
        compiled = made.open()
        with typed(f"Opening {self._name}"):
            self._request = compiled.create_infer_request()
        self._runner = Runner(self._request, self._name, options.timeout)
        self._head = Head(artifact, device, config, options.timeout, HEAD_ROWS)
        self._embedding = TokenEmbedding(
            artifact.embedding(), manifest.embedding.scale, torch.float32
        )
        self.capabilities = SessionCapabilities(
            slots=1,
            max_length=max_length,
            hidden_size=sizes.hidden_size,
            vocab_size=sizes.vocab_size,
        )
        self.identity = f"{artifact.identity}-openvino-npuw"
        self._slots = Slots(self.capabilities)
        self._lifetime = Lifetime(self._name)
        # One more than fits, as the pipeline takes no prompt of a single token.
        self._history = np.zeros((1, max_length + 1, sizes.hidden_size), np.float32)
        self._mask = np.ones((1, max_length + 1), np.int64)
        self._positions = np.arange(max_length + 1, dtype=np.int64)[None]
        self._beam = np.zeros(1, np.int32)
        self._inside: int | None = None
        self._bound: list[ov.Tensor] = []

    def describe(self) -> str:
        """See `Session.describe`."""
        return f"openvino:{self._device}, static pipeline for one request, KV in f16"

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Session.embed`; float32."""
        with self._lifetime.turn():
            return self._embedding(tokens)

    def infer(self, rows: Sequence[Row]) -> StepOutput:
        """See `Session.infer`; hidden states are float32."""
        with self._lifetime.turn():
            self._slots.check_rows(rows)
            (row,) = rows
            given = self._embedding(row.tokens) if row.tokens is not None else row.embeddings
            assert given is not None
            torch.from_numpy(self._history)[0, row.past : row.past + row.count] = given
            try:
                values, failed = self._run(row.past, row.past + row.count), {}
                self._slots.hold(0, row.past + row.count)
            except DeviceLostError as error:
                self._lifetime.lose(error)
                raise
            except DeviceError as error:
                values = torch.zeros(row.count, self.capabilities.hidden_size)
                failed = {0: error}
                self._inside = None
                self._slots.hold(0, 0)
            return StepOutput(values, failed)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Session.logits`."""
        with self._lifetime.turn():
            return self._head(hidden)

    def snapshot(self, slot: int, tokens: int) -> Snapshot:
        """Refused: the pipeline doesn't show keys and values."""
        with self._lifetime.turn():
            self._slots.check_source(slot, tokens)
            raise AssertionError("a session without snapshots made one")

    def restore(self, slot: int, snapshot: Snapshot, tokens: int) -> None:
        """Refused, as `snapshot` is."""
        with self._lifetime.turn():
            self._slots.check_restore(slot, snapshot, tokens, self.identity)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Refused, as `snapshot` is."""
        with self._lifetime.turn():
            self._slots.check_source(source, tokens)

    def forget(self, slot: int) -> None:
        """See `Session.forget`."""
        with self._lifetime.turn():
            self._slots.check_slot(slot)
            self._slots.hold(slot, 0)

    def close(self) -> None:
        """See `Session.close`."""
        self._lifetime.close(self._free)

    def _free(self) -> None:
        del self._runner, self._request, self._head, self._embedding
        self._bound.clear()

    def _run(self, past: int, end: int) -> torch.Tensor:
        """Hidden states of the tokens from `past` to `end`, `[n, hidden_size]`."""
        if past and self._inside == past and end - past <= FEW:
            rows = [self._infer(at, at + 1)[-1:].clone() for at in range(past, end)]
            return torch.cat(rows)
        if end > 1:
            return self._infer(0, end)[past - end :]
        # A token doesn't see the next, so whatever follows it here doesn't matter.
        self._history[0, 1] = self._history[0, 0]
        return self._infer(0, 2)[-2:-1]

    def _infer(self, begin: int, end: int) -> torch.Tensor:
        """Run some tokens. Their hidden states are the last of what comes back."""
        self._inside = None
        self._runner.settle()
        given = {
            "inputs_embeds": self._history[:, begin:end],
            "attention_mask": self._mask[:, :end],
            "position_ids": self._positions[:, begin:end],
            "beam_idx": self._beam,
        }
        tensors = {name: ov.Tensor(array, shared_memory=True) for name, array in given.items()}
        for name, tensor in tensors.items():
            self._request.set_tensor(name, tensor)
        self._bound = list(tensors.values())
        self._runner.run()
        self._inside = end
        return torch.from_numpy(self._request.get_tensor(OUTPUT).data)[0]


def decoder(artifact: Artifact, device: str, options: SessionOptions) -> Decoder:
    """What such a session compiles.

    Raises:
        ConfigurationError: see `StaticSession`.
    """
    max_length = options.max_length or artifact.manifest.limits.max_model_len
    config = {**_config(artifact, device, options), **_pipeline(max_length)}

    def model() -> ov.Model:
        made = with_finite_masks(read(artifact, DECODER))
        made.outputs[0].get_tensor().set_names({OUTPUT})
        return made

    return Decoder(artifact, device, config, model)


def _config(artifact: Artifact, device: str, options: SessionOptions) -> dict[str, Any]:
    """OpenVINO's properties for both graphs."""
    problems = []
    if options.slots != 1:
        problems.append(
            f"{options.slots} slots: OpenVINO's pipeline for NPUs holds one request. Set "
            "max_batch_size to 1."
        )
    if options.kv_cache_dtype not in (None, torch.float16):
        problems.append(
            f"KV cache dtype {options.kv_cache_dtype}: openvino:{device} keeps keys and values in "
            "float16. Leave the setting out."
        )
    chosen = OpenVINOOptions.of({"npuw": True, **options.driver})
    if not chosen.npuw:
        problems.append("Option 'npuw' of driver 'openvino' is false: sessions on NPUs need it.")
    if problems:
        raise ConfigurationError.several(problems)
    return compile_config(device, chosen, getattr(torch, artifact.manifest.dtype), None)


def _pipeline(max_length: int) -> dict[str, Any]:
    """Properties that make a stateful decoder a pipeline."""
    return {
        "NPUW_LLM": "YES",
        "NPUW_LLM_BATCH_DIM": 0,
        "NPUW_LLM_SEQ_LEN_DIM": 2,
        # Both are rounded up to 64 inside.
        "NPUW_LLM_MAX_PROMPT_LEN": max(max_length, 2),
        "NPUW_LLM_MIN_RESPONSE_LEN": 1,
        # In one piece: of a prompt in chunks, only the last chunk's hidden states come back.
        "NPUW_LLM_PREFILL_HINT": "STATIC",
        # Hidden states of all tokens, and no LM head to look for.
        "NPUW_LLM_SHARED_HEAD": "NO",
        "NPUW_SLICE_OUT": "NO",
    }

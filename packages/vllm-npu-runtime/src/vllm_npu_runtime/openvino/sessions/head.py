"""The graph that makes logits of hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import openvino as ov
import torch

from vllm_npu_runtime.artifact.names import LM_HEAD
from vllm_npu_runtime.errors import BadShapeError
from vllm_npu_runtime.openvino.devices import core
from vllm_npu_runtime.openvino.failures import typed
from vllm_npu_runtime.openvino.sessions.graphs import read
from vllm_npu_runtime.openvino.sessions.running import Runner
from vllm_npu_runtime.openvino.tensors import Shared

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.directory import Artifact


class Head:
    """The LM head, compiled.

    Args:
        artifact: whose it is.
        device: as OpenVINO names it.
        config: OpenVINO's properties.
        timeout: seconds for a run, or None.
        rows: hidden states in a run; None: any number.
    """

    def __init__(
        self,
        artifact: Artifact,
        device: str,
        config: Mapping[str, Any],
        timeout: float | None,
        rows: int | None = None,
    ) -> None:
        sizes = artifact.manifest.model
        name = f"the LM head of {artifact.manifest.source} on openvino:{device}"
        with typed(f"Compiling {name}"):
            model = read(artifact, LM_HEAD)
            if rows is not None:
                model.reshape(ov.PartialShape([rows, sizes.hidden_size]))
            self._request = core().compile_model(model, device, dict(config)).create_infer_request()
        self._runner = Runner(self._request, name, timeout)
        self._rows, self._hidden, self._vocabulary = rows, sizes.hidden_size, sizes.vocab_size
        self._input: Shared | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits, `[n, hidden_size]` to float32 `[n, vocab_size]`, valid until the next call.

        Raises:
            BadShapeError: hidden states of another width.
        """
        if hidden.ndim != 2 or hidden.shape[1] != self._hidden:
            raise BadShapeError(
                f"Hidden states of shape {list(hidden.shape)}; logits are made of "
                f"[n, {self._hidden}]."
            )
        if not len(hidden):
            return torch.zeros(0, self._vocabulary)
        if self._rows is None:
            return self._run(hidden)
        return torch.cat([self._padded(part) for part in hidden.split(self._rows)])

    def _padded(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self._rows is not None
        padding = (0, 0, 0, self._rows - len(hidden))
        return self._run(torch.nn.functional.pad(hidden, padding))[: len(hidden)].clone()

    def _run(self, hidden: torch.Tensor) -> torch.Tensor:
        self._runner.settle()
        # What the request reads must outlive the run.
        self._input = Shared(hidden.float().contiguous())
        self._request.set_input_tensor(0, self._input.ov)
        self._runner.run()
        return torch.from_numpy(self._request.get_output_tensor(0).data)

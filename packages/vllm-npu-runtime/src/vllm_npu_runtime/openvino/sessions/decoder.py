"""A decoder ready to run: imported from the artifact where that has it compiled, else compiled."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from vllm_npu_runtime.artifact.manifest import Blob
from vllm_npu_runtime.artifact.names import DECODER
from vllm_npu_runtime.drivers.openvino import OpenVINODriver
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.devices import core
from vllm_npu_runtime.openvino.failures import typed
from vllm_npu_runtime.openvino.saved import imported

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.directory import Artifact

_logger = logging.getLogger("vllm.npu")


@dataclass(frozen=True)
class Decoder:
    """What a session compiles of an artifact's decoder, and how.

    Attributes:
        artifact: whose it is.
        device: as OpenVINO names it.
        config: OpenVINO's properties.
        model: makes the model to compile of the artifact's graph.
    """

    artifact: Artifact
    device: str
    config: Mapping[str, Any]
    model: Callable[[], ov.Model]

    @property
    def name(self) -> str:
        """For errors and the log."""
        return f"{self.artifact.manifest.source} on openvino:{self.device}"

    def open(self) -> ov.CompiledModel:
        """Compiled: from the artifact's blob if it has one for this device and configuration.

        Raises:
            OutOfMemoryError, DeviceError: it can't be compiled.
        """
        return self._imported() or self._compiled()

    def export(self, file: str) -> Blob:
        """Compile, and write the compiled model into the artifact's directory.

        Args:
            file: its name there. Weights that it doesn't hold it looks up in the weights file.

        Raises:
            DeviceError: it can't be compiled, or the device doesn't export what it compiles.
        """
        compiled = self._compiled()
        with typed(f"Exporting {self.name}"):
            content = compiled.export_model()
        (self.artifact.directory / file).write_bytes(content.getbuffer())
        return Blob(file=file, fingerprint=self._fingerprint(), config=self._digest())

    def _compiled(self) -> ov.CompiledModel:
        with typed(f"Compiling {self.name}"):
            return core().compile_model(self.model(), self.device, dict(self.config))

    def _imported(self) -> ov.CompiledModel | None:
        blob = self.artifact.manifest.blobs.get(DECODER)
        if blob is None:
            return None
        if problem := self._mismatch(blob):
            _logger.warning("%s isn't used, so %s is compiled: %s", blob.file, self.name, problem)
            return None
        path = self.artifact.directory / blob.file
        config = {**self.config, "WEIGHTS_PATH": str(self.artifact.weights_path)}
        try:
            # Mapped: what the plugin doesn't repack isn't read twice.
            content = ov.Tensor(np.memmap(path, np.uint8, "c"), shared_memory=True)
            compiled = imported(content, path, self.device, config)
        except (ConfigurationError, OSError, ValueError) as error:
            _logger.warning("%s isn't used, so %s is compiled: %s", blob.file, self.name, error)
            return None
        _logger.info("%s: compiled ahead of time, from %s", self.name, blob.file)
        return compiled

    def _mismatch(self, blob: Blob) -> str | None:
        """Why a blob doesn't go with this session, or None."""
        if blob.fingerprint != (found := self._fingerprint()):
            return f"it was compiled by '{blob.fingerprint}', and this is '{found}'"
        if blob.config != self._digest():
            return (
                "it was compiled with the defaults, and this session has other options (threads, "
                "precision, KV cache dtype, length), or this process another number of cores"
            )
        return None

    def _fingerprint(self) -> str:
        return OpenVINODriver().fingerprint(self.device)

    def _digest(self) -> str:
        """SHA-256 of the configuration."""
        text = json.dumps(dict(self.config), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

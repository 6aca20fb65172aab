"""A converted model in files: its graph, and the small constants beside it. Never weights.

Weights stay in the checkpoint, which vLLM reads anyway. Where compiling takes minutes, as on
NPUs, the compiled model is kept as well; that one holds the weights.
"""

from __future__ import annotations

from pathlib import Path

import openvino as ov

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.devices import core
from vllm_npu_runtime.openvino.executable import OpenVINOExecutable
from vllm_npu_runtime.program import Program

GRAPH = "model.xml"
CONSTANTS = "model.bin"
BLOB = "compiled.blob"


def write(executable: OpenVINOExecutable, directory: Path, blob: bool) -> None:
    """Write a model's files into an empty directory."""
    # Parameters of dynamic type keep it in the file; the plugin fixes it when it compiles.
    ov.save_model(executable.model, directory / GRAPH, compress_to_fp16=False)
    if blob and executable.compiled is not None:
        (directory / BLOB).write_bytes(executable.compiled.export_model().getvalue())


def read(program: Program, directory: Path) -> ov.Model:
    """The model, with a parameter for every input.

    Raises:
        ConfigurationError: files that are missing, cut short, or of another program.
    """
    for name in (GRAPH, CONSTANTS):
        if not (directory / name).is_file():
            raise ConfigurationError(f"{directory / name} is missing.")
    try:
        model = core().read_model(directory / GRAPH, directory / CONSTANTS)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigurationError(f"{directory / GRAPH} can't be read: {reason}") from error
    known = {binding.name for binding in program.inputs}
    found = {each.get_friendly_name().split(":", 1)[-1] for each in model.get_parameters()}
    whole = {each.get_friendly_name() for each in model.get_parameters()}
    if not all(name in known or name in whole & known for name in found):
        raise ConfigurationError(f"{directory / GRAPH} is of another program.")
    return model


def read_blob(directory: Path, device: str) -> ov.CompiledModel | None:
    """The compiled model, if there is one.

    Raises:
        ConfigurationError: it can't be read on this device.
    """
    path = directory / BLOB
    if not path.is_file():
        return None
    try:
        return core().import_model(path.read_bytes(), device)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigurationError(f"{path} can't be read: {reason}") from error

"""A converted model in files: its graph, and the small constants beside it. Never weights.

Weights stay in the checkpoint, which vLLM reads anyway. Where compiling takes minutes, as on
NPUs, the compiled model is kept as well; that one holds the weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino as ov
import torch

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.attention import restore
from vllm_npu_runtime.openvino.devices import core
from vllm_npu_runtime.openvino.executable import OpenVINOExecutable
from vllm_npu_runtime.openvino.functional import KEYS, VALUES
from vllm_npu_runtime.openvino.split_products import whole_name
from vllm_npu_runtime.openvino.tensors import TYPES
from vllm_npu_runtime.program import Binding, Kind, Program

GRAPH = "model.xml"
CONSTANTS = "model.bin"
BLOB = "compiled.blob"
WEIGHTS = "weights.sha256"


def write(executable: OpenVINOExecutable, directory: Path, blob: bool) -> None:
    """Write a model's files into an empty directory."""
    # Parameters of dynamic type keep it in the file; the plugin fixes it when it compiles.
    ov.save_model(executable.model, directory / GRAPH, compress_to_fp16=False)
    if blob and executable.compiled is not None:
        (directory / BLOB).write_bytes(executable.compiled.export_model().getvalue())
        (directory / WEIGHTS).write_text(_digest(executable.weights))


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
    restore(model)
    _check(program, model, directory / GRAPH)
    return model


def _check(program: Program, model: ov.Model, path: Path) -> None:
    """Refuse a model with other inputs or outputs than the program's."""
    wanted = {binding.name: binding for binding in program.inputs}
    fits = len(model.outputs) == len(program.outputs)
    for parameter in model.get_parameters():
        name = parameter.get_friendly_name()
        binding = wanted.get(whole_name(name.removeprefix(KEYS).removeprefix(VALUES)))
        if binding is None:
            fits = False
        elif whole_name(name) != name:
            rows, whole = parameter.output(0).get_partial_shape()[0], binding.shape[0]
            fits &= whole is not None and rows.is_static and rows.get_length() <= whole
        elif binding.kind is Kind.WEIGHT and not _fits(parameter.output(0), binding):
            fits &= _has_bytes(parameter.output(0), binding)
        elif not name.startswith((KEYS, VALUES)):
            fits &= _fits(parameter.output(0), binding)
    for output, binding in zip(model.outputs, program.outputs, strict=False):
        fits &= _fits(output, binding)
    if not fits:
        raise ConfigurationError(f"{path} is of another program.")


def _fits(port: ov.Output, binding: Binding) -> bool:
    shape = ov.PartialShape([-1 if each is None else each for each in binding.shape])
    kind, _ = TYPES[binding.dtype]
    return port.get_element_type() == kind and port.get_partial_shape().compatible(shape)


def _has_bytes(port: ov.Output, binding: Binding) -> bool:
    """Whether a port is a weight's bytes in another shape, as those of packed weights are."""
    kind, _ = TYPES[binding.dtype]
    given, shape = port.get_element_type(), port.get_partial_shape()
    if shape.is_dynamic or given not in (kind, ov.Type.u4):
        return False
    bits = 4 if given == ov.Type.u4 else 8 * binding.dtype.itemsize
    return bits * math.prod(shape.to_shape()) == 8 * binding.nbytes


def read_blob(
    program: Program, directory: Path, device: str, config: dict[str, Any]
) -> ov.CompiledModel:
    """The compiled model, if it holds the program's weights.

    Args:
        program: with the weights that the checkpoint has now.
        directory: where it lies.
        device: that it was compiled for.
        config: that it was compiled with, which the file doesn't keep.

    Raises:
        ConfigurationError: it is missing, can't be read on this device, or holds other weights.
    """
    path = directory / BLOB
    for each in (path, directory / WEIGHTS):
        if not each.is_file():
            raise ConfigurationError(f"{each} is missing.")
    if (directory / WEIGHTS).read_text() != _digest(program.weights):
        raise ConfigurationError(f"{path} holds other weights than the model has now.")
    return imported(path.read_bytes(), path, device, config)


def imported(
    content: bytes | ov.Tensor, path: Path, device: str, config: dict[str, Any]
) -> ov.CompiledModel:
    """A compiled model that was exported before.

    Args:
        content: of the file.
        path: of the file, for errors.
        device: that it was compiled for.
        config: that it was compiled with, which the file doesn't keep.

    Raises:
        ConfigurationError: it can't be read on this device.
    """
    try:
        return core().import_model(content, device, config)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigurationError(f"{path} can't be read: {reason}") from error


def _digest(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of weights with their names, in hexadecimal digits."""
    total = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        total.update(name.encode())
        octets = weight.detach().contiguous().reshape(-1).view(torch.uint8)
        total.update(octets.numpy().data)
    return total.hexdigest()

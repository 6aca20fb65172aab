"""What a user asks a compilation for, checked against the model before any work."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

from vllm_npu_runtime.artifact.manifest import Dtype, Limits, PerCoreMode, Weights
from vllm_npu_runtime.device import find
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.export import weight_formats
from vllm_npu_runtime.export.decoder import EMBEDDING, weight_shapes
from vllm_npu_runtime.export.head import WEIGHT as HEAD
from vllm_npu_runtime.export.skeleton import VARYING_ROPE, rope_type, sliding_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vllm_npu_runtime.drivers.base import Capabilities
    from vllm_npu_runtime.export.source import Source, Tensors

_logger = logging.getLogger("vllm.npu")

DTYPES: tuple[str, ...] = get_args(Dtype)
MAX_BATCH_SIZE = 8
PREFILL_CHUNK_SIZE = 256
ONE_REQUEST = "openvino:NPU"
"""A device whose pipeline holds one request, and runs a prompt from its first token on."""
_PORTABLE = ("openvino:CPU", "openvino:NPU")
_OTHER_COMPILERS = {"mobilint": "Mobilint's own compiler, which writes MXQ files"}
"""What makes models for drivers that don't take these graphs."""
# Checkpoints may hold them, but they follow from the config.
_DERIVED = ("rotary_emb.inv_freq", "rotary.inv_freq", "attn.masked_bias", "attn.bias")


@dataclass(frozen=True)
class Request:
    """How to compile.

    Attributes:
        device: ``<driver>[:<device>]`` or ``auto``.
        dtype: of the model; "auto": the checkpoint's, or the best that the device serves.
        weights: format of the matrices; None: the dtype's.
        max_batch_size: requests at once; None: as many as suits the device.
        prefill_chunk_size: tokens of a prompt in a step; None: as many as suits the device.
        max_model_len: tokens of a request; None: the model's own limit.
        blob: compile the decoder for the device too.
    """

    device: str = "openvino:CPU"
    dtype: str = "auto"
    weights: str | None = None
    max_batch_size: PerCoreMode | None = None
    prefill_chunk_size: PerCoreMode | None = None
    max_model_len: int | None = None
    blob: bool = False


@dataclass(frozen=True)
class Plan:
    """What is done.

    Attributes:
        device: by its full name.
        dtype: of the model.
        weights: format of the matrices.
        limits: what it is compiled for.
    """

    device: str
    dtype: Dtype
    weights: Weights
    limits: Limits


def plan(request: Request, config: Any) -> Plan:
    """What a request comes to for a model.

    Args:
        request: as the user gave it.
        config: of the model, in `transformers`.

    Raises:
        ConfigurationError: all that can't be honoured, at once.
    """
    problems: list[str] = []
    device, dtypes = request.device, DTYPES
    try:
        device, dtypes = _device(request.device)
    except ConfigurationError as error:
        problems.append(str(error))
    dtype = _dtype(request.dtype, config, device, dtypes, problems)
    weights = request.weights or weight_formats.AS_DTYPE.get(dtype, "f32")
    if weights not in weight_formats.FORMATS:
        known = weight_formats.FORMATS
        problems.append(str(ConfigurationError.unknown("weight format", weights, known)))
    longest = int(config.max_position_embeddings)
    length = longest if request.max_model_len is None else request.max_model_len
    if not 0 < length <= longest:
        problems.append(f"--max-model-len {length}: the model allows 1 to {longest} tokens.")
    if (rope := rope_type(config)) in VARYING_ROPE:
        problems.append(
            f"Rotary embeddings of type '{rope}' change with the length of the text, which a "
            "compiled graph can't. Set rope_parameters in config.json to a fixed type, as 'yarn'."
        )
    try:
        sliding_windows(config)
    except ConfigurationError as error:
        problems.append(str(error))
    batch = request.max_batch_size
    if batch is None:
        batch = 1 if device == ONE_REQUEST else MAX_BATCH_SIZE
    problems += _size_problems("--max-batch-size", batch)
    chunk = request.prefill_chunk_size
    if chunk is None:
        chunk = length if device == ONE_REQUEST else PREFILL_CHUNK_SIZE
    problems += _size_problems("--prefill-chunk-size", chunk)
    if device == ONE_REQUEST and batch != 1:
        problems.append(
            f"--max-batch-size {batch}: {device} holds one request at a time. Set it to 1."
        )
    if request.blob and (problem := _blob_problem(device)):
        problems.append(problem)
    if problems:
        raise ConfigurationError.several(problems)
    if device == ONE_REQUEST:
        _warn_of_replays(device, chunk, length)
    limits = Limits(max_model_len=length, max_batch_size=batch, prefill_chunk_size=chunk)
    return Plan(device, cast(Dtype, dtype), cast(Weights, weights), limits)


def check_tensors(source: Source, tensors: Tensors, model: PreTrainedModel, weights: str) -> None:
    """Refuse a checkpoint that doesn't hold exactly the model's tensors.

    Raises:
        ConfigurationError: names what is missing, too much, or of another shape.
    """
    wanted = {**weight_shapes(model), EMBEDDING: tuple(model.model.embed_tokens.weight.shape)}
    if not model.config.tie_word_embeddings:
        wanted[HEAD] = tuple(model.lm_head.weight.shape)
    problems = []
    if missing := sorted(wanted.keys() - source.files.keys()):
        problems.append(f"{source.name} lacks {_some(missing)}.")
    unknown = sorted(
        name for name in source.files.keys() - wanted.keys() - {HEAD} if not name.endswith(_DERIVED)
    )
    if unknown:
        problems.append(
            f"{source.name} holds tensors that the model has no use for: {_some(unknown)}."
        )
    for name in sorted(wanted.keys() & source.files.keys()):
        if (found := tensors.shape(name)) != wanted[name]:
            problems.append(f"{name} is {list(found)}; by config.json it is {list(wanted[name])}.")
    matrices = weight_formats.matrices(weights)
    for name, shape in wanted.items():
        if name not in (EMBEDDING, HEAD) and len(shape) == 2:
            try:
                matrices.slots(name, shape)
            except ConfigurationError as error:
                problems.append(str(error))
                break  # the others say the same
    if problems:
        raise ConfigurationError.several(problems)


def _device(spec: str) -> tuple[str, tuple[str, ...]]:
    """A device's full name, and the dtypes that it serves."""
    if other := _OTHER_COMPILERS.get(spec.partition(":")[0]):
        raise ConfigurationError(f"--device {spec}: models for it are made by {other}.")
    try:
        device = find(spec)
    except ConfigurationError:
        # The graphs are the same wherever OpenVINO runs them, so the device needn't be here.
        if spec not in _PORTABLE:
            raise
        return spec, ("float16", "float32") if spec == ONE_REQUEST else DTYPES
    if not device.capabilities.stateful:
        raise ConfigurationError(
            f"--device {device.name}: it opens no artifacts. `vllm serve` with the checkpoint "
            "itself compiles for it at start-up."
        )
    return device.name, _names(device.capabilities)


def _names(capabilities: Capabilities) -> tuple[str, ...]:
    names = (str(dtype).removeprefix("torch.") for dtype in capabilities.dtypes)
    return tuple(name for name in names if name in DTYPES)


def _dtype(
    wanted: str, config: Any, device: str, offered: tuple[str, ...], problems: list[str]
) -> str:
    if wanted == "auto":
        own = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
        return own if own in offered else offered[0]
    if wanted not in DTYPES:
        problems.append(str(ConfigurationError.unknown("dtype", wanted, ("auto", *DTYPES))))
    elif wanted not in offered:
        problems.append(
            f"--dtype {wanted}: {device} serves {', '.join(offered)}. Choose one of these, or auto."
        )
    return wanted


def _size_problems(option: str, value: PerCoreMode) -> list[str]:
    sizes = dict(value) if isinstance(value, Mapping) else {"": value}
    if not sizes:
        return [f"{option} is empty: give a number, or one for each core mode."]
    return [
        f"{option} {f'{mode}=' if mode else ''}{size}: it must be at least 1."
        for mode, size in sizes.items()
        if size < 1
    ]


def _warn_of_replays(device: str, chunk: PerCoreMode, length: int) -> None:
    """Say what chunks cost where every one but the first runs its prompt from the beginning."""
    smallest = min(chunk.values()) if isinstance(chunk, Mapping) else chunk
    if smallest < length:
        _logger.warning(
            "--prefill-chunk-size %d: %s runs a prompt anew from its first token for every "
            "further chunk, so one of %d tokens takes up to %d runs instead of 1. Leave the "
            "option out for chunks of --max-model-len.",
            smallest,
            device,
            length,
            -(-length // smallest),
        )


def _blob_problem(device: str) -> str | None:
    """Why nothing can be compiled for a device here, or None."""
    if device.partition(":")[0] != "openvino":
        return (
            f"--blob: sessions on {device} have nothing that is compiled ahead of time. Leave it "
            f"out, or compile for {ONE_REQUEST}."
        )
    if not device.startswith(ONE_REQUEST):
        return (
            f"--blob: sessions on {device} have paged attention, and OpenVINO can't import what "
            "it exports of that: the attention's head sizes aren't in the file. Leave it out, as "
            f"{device} compiles when it opens, or compile for {ONE_REQUEST}."
        )
    try:
        find(device)
    except ConfigurationError:
        return (
            f"--blob: {device} isn't on this machine, and nothing else compiles for it. Leave it "
            "out, or compile where the device is."
        )
    return None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

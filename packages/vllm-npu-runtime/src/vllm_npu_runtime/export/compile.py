"""From a Hugging Face checkpoint to an artifact.

The graphs are made of the model without weights. Then the weights go from the checkpoint into the
artifact one tensor at a time, so that no more than one of them is in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_npu_runtime import __version__
from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.artifact.manifest import Blob, Embedding, Manifest, ModelSizes, PerCoreMode
from vllm_npu_runtime.artifact.names import (
    BATCH_TOKENS,
    BLOCK_SIZE,
    CONFIG,
    DECODER,
    FORMAT_VERSION,
    LM_HEAD,
    MAX_BATCH_SIZE,
    MAX_MODEL_LEN,
    PREFILL_CHUNK_SIZE,
    WEIGHTS,
)
from vllm_npu_runtime.artifact.writing import (
    check_space,
    check_target,
    records_of,
    staged,
    write_manifest,
)
from vllm_npu_runtime.export import decoder, head, weight_formats
from vllm_npu_runtime.export.progress import Progress, Silent
from vllm_npu_runtime.export.request import Plan, Request, check_tensors, plan
from vllm_npu_runtime.export.requirement import require
from vllm_npu_runtime.export.skeleton import config_of, skeleton, sliding_windows
from vllm_npu_runtime.export.source import Source, Tensors, find
from vllm_npu_runtime.export.tensor_file import Slot, TensorFile
from vllm_npu_runtime.sessions.base import SessionOptions

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from vllm_npu_runtime.export.ir import Drawing
    from vllm_npu_runtime.export.weight_formats import WeightFormat


@dataclass(frozen=True)
class _Weight:
    """A tensor of the checkpoint, and how it is kept."""

    format: WeightFormat
    shape: tuple[int, ...]


def compile_artifact(
    model: str | Path,
    directory: str | Path,
    *,
    device: str = "openvino:CPU",
    dtype: str = "auto",
    weights: str | None = None,
    max_batch_size: PerCoreMode | None = None,
    prefill_chunk_size: PerCoreMode | None = None,
    max_model_len: int | None = None,
    blob: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Compile a model ahead of time.

    Args:
        model: directory of a checkpoint, or the name of a model on the Hub.
        directory: to write; it must not exist, or be empty.
        device: that it is for, as "openvino:CPU".
        dtype: to compute in: "float32", "bfloat16" or "float16"; "auto": the checkpoint's, or
            the best of the device.
        weights: format of the matrices: "f32", "bf16", "f16", "int8" or "int4"; None: the dtype's.
        max_batch_size: requests at once, or such a number for each core mode.
        prefill_chunk_size: tokens of a prompt in a step, or such a number for each core mode.
            None: 256, or `max_model_len` where every further chunk runs the whole prompt.
        max_model_len: tokens of a request; None: the model's own limit.
        blob: compile the decoder for the device as well, an NPU that is here, and keep that.
        force: replace an artifact that is there.
        progress: is told how far it has come.

    Raises:
        ConfigurationError: the model can't be compiled so, or the directory can't be written.
            Then nothing is left there.
    """
    directory, told = Path(directory), progress or Silent()
    require()
    check_target(directory, force)
    told.stage("checkpoint", 1)
    source = find(model)
    config = config_of(source.family.config(source.config))
    asked = Request(device, dtype, weights, max_batch_size, prefill_chunk_size, max_model_len, blob)
    planned = plan(asked, config)
    bones = skeleton(config)
    with source.reading() as tensors:
        check_tensors(source, tensors, bones, planned.weights)
        kept = _weights(bones, planned)
        slots = {name: each.format.slots(name, each.shape) for name, each in kept.items()}
        total = sum(slot.nbytes for each in slots.values() for slot in each)
        check_space(directory, 2 * total if blob else total)
        told.stage("graphs", 1)
        drawings = _draw(bones, kept)
        with staged(directory, force) as stage:
            everything = [slot for each in slots.values() for slot in each]
            offsets = _write_weights(stage, everything, tensors, kept, drawings, told)
            for drawing in drawings:
                drawing.write(stage, offsets)
            _write_config(stage, source, config, planned)
            for name in source.companions():
                (stage / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source.directory / name, stage / name)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                made_by={
                    "vllm-npu-runtime": __version__,
                    **{name: version(name) for name in ("openvino", "torch", "transformers")},
                },
                source=source.name,
                architecture=source.family.wrapper,
                device=planned.device,
                dtype=planned.dtype,
                weights=planned.weights,
                model=_sizes(config),
                limits=planned.limits,
                graphs={drawing.name: drawing.graph for drawing in drawings},
                embedding=Embedding(tensor=decoder.EMBEDDING),
                files={},
            )
            if blob:
                told.stage("compiling", 1)
                manifest = manifest.model_copy(update={"blobs": _export(stage, manifest)})
            told.stage("checksums", sum(p.stat().st_size for p in stage.rglob("*") if p.is_file()))
            files = records_of(stage, told.advance)
            write_manifest(stage, manifest.model_copy(update={"files": files}))
            told.stage("writing to disk", 1)
    return Artifact.open(directory, verify=False)


def _weights(model: PreTrainedModel, planned: Plan) -> dict[str, _Weight]:
    """Every tensor that the artifact keeps, by name; tied embeddings once."""
    matrices = weight_formats.matrices(planned.weights)
    tables = weight_formats.embeddings(planned.weights, planned.dtype)
    found = {
        name: _Weight(matrices if len(shape) == 2 else weight_formats.vectors(), shape)
        for name, shape in decoder.weight_shapes(model).items()
    }
    table = tuple(model.model.embed_tokens.weight.shape)
    found[decoder.EMBEDDING] = _Weight(tables, table)
    if not model.config.tie_word_embeddings:
        found[head.WEIGHT] = _Weight(tables, table)
    return found


def _draw(model: PreTrainedModel, kept: Mapping[str, _Weight]) -> list[Drawing]:
    """The two graphs."""
    from vllm_npu_runtime.export.ir import draw
    from vllm_npu_runtime.openvino.failures import typed

    with typed("Converting the decoder"):
        graph, parameters = decoder.convert(model)
    constants = {name: kept[name].format.constant(name, kept[name].shape) for name in parameters}
    widening = decoder.put_in(graph, parameters, constants)
    decoder.make_stateful(graph, model.config.num_hidden_layers)
    names = [name for constant in constants.values() for name in constant.parameters]
    drawn = [draw(DECODER, graph, names, widening)]
    matrix = decoder.EMBEDDING if model.config.tie_word_embeddings else head.WEIGHT
    constant = kept[matrix].format.constant(matrix, kept[matrix].shape)
    scaling = float(getattr(model.config, "logits_scaling", 1.0))
    graph = head.convert(constant, model.config.hidden_size, scaling)
    drawn.append(draw(LM_HEAD, graph, list(constant.parameters), constant.widening))
    return drawn


def _write_weights(
    stage: Path,
    slots: list[Slot],
    tensors: Tensors,
    kept: Mapping[str, _Weight],
    drawings: list[Drawing],
    told: Progress,
) -> dict[str, int]:
    """Write the weights file; where in it each tensor lies."""
    import torch

    told.stage("weights", sum(slot.nbytes for slot in slots))
    with TensorFile(stage / WEIGHTS, [*slots, *(each.slot for each in drawings)]) as file:
        for drawing in drawings:
            constants = torch.frombuffer(bytearray(drawing.constants), dtype=torch.uint8)
            file.write(drawing.slot.name, constants)
        for name, weight in kept.items():
            for part, tensor in weight.format.pack(name, tensors[name]).items():
                file.write(part, tensor)
                told.advance(tensor.nbytes)
        return file.offsets


def _export(stage: Path, manifest: Manifest) -> dict[str, Blob]:
    """Compile the decoder that lies there, as a session would."""
    from vllm_npu_runtime.openvino.sessions.static import decoder

    artifact = Artifact(stage, manifest, identity="")
    made = decoder(artifact, manifest.device.partition(":")[2], SessionOptions(1))
    return {DECODER: made.export(f"{DECODER}.blob")}


def _write_config(stage: Path, source: Source, config: PretrainedConfig, planned: Plan) -> None:
    """The checkpoint's config with what vLLM needs to know beside it."""
    fields: dict[str, Any] = source.family.config(source.config)
    for name in ("auto_map", "torch_dtype", "_name_or_path"):
        fields.pop(name, None)
    limits = planned.limits
    fields |= {
        "architectures": [source.family.wrapper],
        "dtype": planned.dtype,
        PREFILL_CHUNK_SIZE: limits.prefill_chunk_size,
        MAX_BATCH_SIZE: limits.max_batch_size,
        BLOCK_SIZE: limits.block_size,
        MAX_MODEL_LEN: limits.max_model_len,
    }
    if limits.batch_tokens is not None:
        fields[BATCH_TOKENS] = limits.batch_tokens
    config_of(fields)  # what is written can be read
    (stage / CONFIG).write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _sizes(config: PretrainedConfig) -> ModelSizes:
    return ModelSizes(
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        layers=config.num_hidden_layers,
        kv_heads=config.num_key_value_heads,
        head_size=decoder.head_size(config),
        sliding_windows=sliding_windows(config),
    )

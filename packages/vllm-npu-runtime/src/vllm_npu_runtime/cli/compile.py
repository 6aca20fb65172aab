"""``vllm-npu compile``: a model, compiled ahead of time."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from vllm_npu_runtime.cli.failing import told
from vllm_npu_runtime.doctor.sizes import in_words


def compile(
    model: Annotated[
        str, typer.Argument(help="Directory of a checkpoint, or a model on the Hugging Face Hub.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write.")
    ],
    device: Annotated[
        str, typer.Option(help="What it shall run on: <driver>[:<device>].")
    ] = "openvino:CPU",
    dtype: Annotated[
        str,
        typer.Option(help="To compute in: auto, float32, bfloat16 or float16."),
    ] = "auto",
    max_batch_size: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Requests at once: a number, or one for each core mode. [default: 8, "
            "and 1 for openvino:NPU]",
        ),
    ] = None,
    prefill_chunk_size: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Tokens of a prompt in one step: a number, or one for each core mode, as in "
            "single=64,global4=256. [default: 256, and --max-model-len for openvino:NPU]",
        ),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens of a request. [default: the model's own limit]"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Of the matrices: f32, bf16, f16, int8 or int4. [default: as the dtype]"),
    ] = None,
    blob: Annotated[
        bool,
        typer.Option(
            "--blob",
            help="openvino:NPU: compile the decoder for the NPU of this machine as well, so that "
            "opening needn't. What is compiled holds weights again, so the artifact is up to "
            "twice as large. It is used with the same NPU, driver and options only.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an artifact that is there.")
    ] = False,
) -> None:
    """Compile a model ahead of time; `vllm serve` serves what it writes."""
    from vllm_npu_runtime.cli.stages import Stages
    from vllm_npu_runtime.export.compile import compile_artifact

    begun = time.monotonic()
    with told(), Stages() as stages:
        artifact = compile_artifact(
            model,
            output,
            device=device,
            dtype=dtype,
            weights=weights,
            max_batch_size=(
                None if max_batch_size is None else sizes("--max-batch-size", max_batch_size)
            ),
            prefill_chunk_size=(
                None
                if prefill_chunk_size is None
                else sizes("--prefill-chunk-size", prefill_chunk_size)
            ),
            max_model_len=max_model_len,
            blob=blob,
            force=force,
            progress=stages,
        )
    seconds = time.monotonic() - begun
    # Named, as a CPU is never chosen by itself.
    command = f"VLLM_NPU_DEVICE={artifact.manifest.device} vllm serve {shlex.quote(str(output))}"
    typer.echo(f"{output}: {in_words(artifact.size)}, in {seconds:.0f} s. Serve it: {command}")


def sizes(option: str, text: str) -> int | dict[str, int]:
    """A number, or one for each core mode.

    Args:
        option: that it was given to.
        text: as "64", or "single=64,global4=256".

    Raises:
        ConfigurationError: it is neither.
    """
    from vllm_npu_runtime.errors import ConfigurationError

    try:
        if "=" not in text:
            return int(text)
        pairs = [part.strip().split("=") for part in text.split(",")]
        found = {mode.strip(): int(size) for mode, size in pairs}
        if len(found) == len(pairs) and all(found):
            return found
    except ValueError:
        pass
    raise ConfigurationError(
        f"{option} {text}: give a whole number, or one for each core mode, as in "
        "single=64,global4=256."
    )

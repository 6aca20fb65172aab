"""``vllm-npu quantize``: a checkpoint with weights of 4 or 8 bits, for vLLM on any platform."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vllm_npu_quantization.offline.writing import LayerReport


def quantize(
    model: Annotated[
        str, typer.Argument(help="Directory of a checkpoint, or a model on the Hugging Face Hub.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write.")
    ],
    scheme: Annotated[
        str, typer.Option(help="w4a16 (groups of 128 or 64) or w8a16 (a scale for each output).")
    ] = "w4a16",
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="Layers to leave as they are; may be repeated."),
    ] = None,
    lm_head: Annotated[bool, typer.Option("--lm-head", help="Quantize the LM head too.")] = False,
) -> None:
    """Quantize a checkpoint's weights and write it in the format of compressed-tensors.

    Rounding is symmetric, to nearest, with each group's range clipped where that lowers its error.
    """
    from vllm_npu_quantization.offline.plan import make_plan
    from vllm_npu_quantization.offline.writing import write
    from vllm_npu_runtime.cli.failing import told
    from vllm_npu_runtime.cli.stages import Stages

    begun = time.monotonic()
    with told():
        plan = make_plan(_directory(model), scheme, _patterns(skip or []), lm_head)
        sizes = {
            entry.name.removesuffix(".weight"): entry.shape
            for listed in plan.files.values()
            for entry in listed
        }
        total = sum(sizes[layer][0] * sizes[layer][1] for layer in plan.groups)
        with Stages() as stages:
            stages.stage("weights", total)
            reports = write(plan, output, stages.advance)
    _print(reports, plan.kept)
    seconds = time.monotonic() - begun
    command = f"vllm serve {shlex.quote(str(output))}"
    typer.echo(f"{output}: {len(reports)} layers, in {seconds:.0f} s. Serve it: {command}")


def _directory(model: str) -> Path:
    """Where the checkpoint lies, fetched if it is on the Hub.

    Raises:
        ConfigurationError: there is none.
    """
    from vllm_npu_quantization.checkpoint.files import directory_of
    from vllm_npu_runtime.errors import ConfigurationError

    if (found := directory_of(model, None)) is not None:
        return found
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, ignore_patterns=["*.bin", "*.pth", "*.gguf"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigurationError(
            f"{model} is no directory, and can't be downloaded: {first}"
        ) from error


def _patterns(given: list[str]) -> tuple[str, ...]:
    from vllm_npu_quantization.on_load.options import Options

    return Options.of({"skip": given}).skip


def _print(reports: list[LayerReport], kept: dict[str, str]) -> None:
    """A line for each layer."""
    from rich.table import Table

    from vllm_npu_runtime.cli.console import wide_console

    table = Table("Layer", "Group", "Error", "Clipped")
    for each in reports:
        group = "row" if each.group_size == -1 else str(each.group_size)
        table.add_row(each.name, group, f"{each.error:.2%}", f"{each.clipped:.2%}")
    for name, reason in sorted(kept.items()):
        table.add_row(name, "–", reason, "–")
    wide_console().print(table)

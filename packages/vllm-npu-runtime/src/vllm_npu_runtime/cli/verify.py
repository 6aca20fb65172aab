"""``vllm-npu verify``: whether an artifact is whole, and computes what its model does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_npu_runtime.cli.failing import told
from vllm_npu_runtime.doctor.sizes import in_words

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.directory import Artifact


def verify(
    directory: Annotated[Path, typer.Argument(help="Of the artifact.")],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Run it, and compare with this checkpoint in PyTorch: a directory, or a model on "
            "the Hugging Face Hub.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="To run it on. [default: the one it was compiled for]"),
    ] = None,
) -> None:
    """Read every file of an artifact and compare checksums; with --against, run it too.

    Ends with status 1 if anything is wrong.
    """
    from vllm_npu_runtime.artifact.directory import Artifact

    with told():
        artifact = Artifact.open(directory)
        count = len(artifact.manifest.files)
        typer.echo(f"{count} files, {in_words(artifact.size)}: all as they were written.")
        if against is not None and not _same(artifact, against, device):
            raise typer.Exit(1)


def _same(artifact: Artifact, model: str, device: str | None) -> bool:
    """Whether it computes what the model does; says by how much they differ."""
    import torch

    from vllm_npu_runtime.artifact.names import CORE_MODE
    from vllm_npu_runtime.export.comparison import compare
    from vllm_npu_runtime.export.source import find
    from vllm_npu_runtime.export.torch_model import load_source
    from vllm_npu_runtime.sessions.base import Placement, SessionOptions
    from vllm_npu_runtime.sessions.opening import open_session

    manifest = artifact.manifest
    source = find(model)
    if source.family.wrapper != manifest.architecture:
        typer.echo(f"{model} is of another family: {source.family.wrapper}.", err=True)
        return False
    modes = manifest.limits.max_batch_size
    mode = artifact.config().get(CORE_MODE) or (
        next(iter(modes)) if isinstance(modes, dict) else None
    )
    options = SessionOptions(slots=1, placement=Placement(core_mode=mode))
    session = open_session(artifact.directory, device, options)
    try:
        found = compare(session, load_source(source, torch.float32), manifest)
        where = session.describe()
    finally:
        session.close()
    typer.echo(
        f"{where}: logits differ by {found.error:.1e} of their size (at most {found.bound:.0e} for "
        f"{manifest.weights} weights in {manifest.dtype}), the largest by {found.largest:.2g}; "
        f"{found.agreeing} of {found.tokens} greedy tokens are the same."
    )
    if not found.good:
        typer.echo(f"The artifact doesn't compute what {model} does.", err=True)
    return found.good

"""How commands fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def told() -> Iterator[None]:
    """Print what can't be done, without a traceback, and end with status 1."""
    from vllm_npu_runtime.errors import NPUError

    try:
        yield
    except NPUError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except MemoryError:
        typer.echo("The host has too little memory left for this.", err=True)
        raise typer.Exit(1) from None

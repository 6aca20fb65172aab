"""The command line: which commands there are. Each lives in a file of its own."""

from typing import Annotated

import typer

from vllm_npu_runtime import __version__
from vllm_npu_runtime.cli import cache, compile, devices, doctor, inspect, verify
from vllm_npu_runtime.cli.extension import ExtensibleGroup


class Commands(ExtensibleGroup):
    """The commands below, and those of other packages."""

    entry_points = "vllm_npu.commands"


app = typer.Typer(
    cls=Commands,
    name="vllm-npu",
    help="Serve models with vLLM on any NPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(name="devices")(devices.devices)
app.command(name="doctor")(doctor.doctor)
app.command(name="compile")(compile.compile)
app.command(name="inspect")(inspect.inspect)
app.command(name="verify")(verify.verify)
app.add_typer(cache.app, name="cache")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vllm-npu {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass

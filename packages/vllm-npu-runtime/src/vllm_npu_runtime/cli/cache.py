"""``vllm-npu cache``: the graphs that engines compiled and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_npu_runtime.cli.extension import ExtensibleGroup
from vllm_npu_runtime.doctor.sizes import in_words

if TYPE_CHECKING:
    from rich.table import Table

    from vllm_npu_runtime.compile_cache.inventory import Entry

COLUMNS = ("Key", "Model", "Device", "Written by", "Graphs", "Size", "Last used")
KEY_WIDTH = 12
LONGEST = 36500
"""Days."""


class CacheGroup(ExtensibleGroup):
    """The commands below, and those of other packages."""

    entry_points = "vllm_npu.cache_commands"


app = typer.Typer(
    cls=CacheGroup,
    help="Graphs that engines compiled and kept.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(name="list")
def list_entries(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what is in the compile cache, what was used last first."""
    from vllm_npu_runtime.cli.console import wide_console
    from vllm_npu_runtime.compile_cache import cache_directory
    from vllm_npu_runtime.compile_cache.inventory import entries

    root = cache_directory()
    with _told():
        found = [entry for entry in entries(root) if entry.size or entry.problem]
    if as_json:
        listed = [entry.model_dump(mode="json") for entry in found]
        typer.echo(json.dumps({"directory": str(root), "entries": listed}, indent=2))
    elif not found:
        typer.echo(f"The compile cache {root} is empty.")
    else:
        console = wide_console()
        console.print(_table(found))
        total = in_words(sum(entry.size for entry in found))
        console.print(f"{total} in {root}", soft_wrap=True)
    if not as_json:
        for note in _notes():
            typer.echo(note)


@app.command()
def verify() -> None:
    """Read every file in the compile cache and compare checksums.

    Ends with status 1 if anything is damaged.
    """
    from vllm_npu_runtime.compile_cache import cache_directory, inventory
    from vllm_npu_runtime.errors import ConfigurationError

    root = cache_directory()
    with _told():
        found = inventory.entries(root)
    graphs = sum(entry.graphs for entry in found)
    damaged = 0
    for entry in found:
        try:
            problems = inventory.verify(entry)
        except ConfigurationError as error:
            typer.echo(str(error))
            graphs -= entry.graphs
            continue
        damaged += len(problems)
        for problem in problems:
            typer.echo(f"damaged: {problem}")
    if damaged:
        typer.echo(
            "Engines discard what is damaged and compile it anew; "
            "`vllm-npu cache clear` with the key removes it now."
        )
        raise typer.Exit(1)
    typer.echo(f"{_graphs(graphs)} in {root}, nothing damaged.")


@app.command()
def clear(
    key: Annotated[
        str | None, typer.Argument(help="Only this key; its first digits are enough.")
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(metavar="DAYS", help="Only what was not used for so many days."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Remove compiled graphs; engines compile them again when they need them.

    Ends with status 1 if something had to stay.
    """
    from vllm_npu_runtime.compile_cache import cache_directory, inventory

    unused_for = None if older_than is None else _days(older_than)
    root = cache_directory()
    with _told():
        wanted = inventory.chosen(inventory.entries(root), key, unused_for)
    if not wanted:
        typer.echo(f"Nothing to remove in {root}.")
        return
    for entry in wanted:
        typer.echo(_in_a_line(entry))
    if not yes:
        size = in_words(sum(entry.size for entry in wanted))
        typer.confirm(f"Remove {size} from {root}?", abort=True)
    done = inventory.clear(wanted)
    inventory.sweep(root)
    for entry, reason in done.kept:
        typer.echo(f"{entry.digest[:KEY_WIDTH]} stays: {reason}.", err=True)
    typer.echo(f"{in_words(done.freed)} freed.")
    if done.kept:
        raise typer.Exit(1)


def _notes() -> Iterator[str]:
    """What the environment says of the cache's use."""
    from vllm_npu_runtime.compile_cache import enabled
    from vllm_npu_runtime.compile_cache.location import OFF
    from vllm_npu_runtime.errors import ConfigurationError

    try:
        if not enabled():
            yield f"{OFF}={os.environ[OFF]}: engines neither read nor write it."
    except ConfigurationError as error:
        yield str(error)


def _days(number: float) -> timedelta:
    if not 0 <= number <= LONGEST:  # a number that isn't one is refused too
        raise typer.BadParameter(f"--older-than {number}: from 0 to {LONGEST} days are allowed.")
    return timedelta(days=number)


@contextmanager
def _told() -> Iterator[None]:
    """Print what can't be done, and end with status 1."""
    from vllm_npu_runtime.errors import ConfigurationError

    try:
        yield
    except ConfigurationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _table(found: list[Entry]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(*COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    for entry in found:
        table.add_row(*_cells(entry), style="red" if entry.problem else None)
    return table


def _cells(entry: Entry) -> tuple[str, ...]:
    return (
        entry.digest[:KEY_WIDTH],
        f"fails: {entry.problem}" if entry.problem else entry.model,
        entry.device,
        entry.suite,
        str(entry.graphs),
        in_words(entry.size),
        f"{entry.used.astimezone():%Y-%m-%d %H:%M}" if entry.used else "",
    )


def _in_a_line(entry: Entry) -> str:
    what = " on ".join(filter(None, (entry.model, entry.device))) or "unknown model"
    digits = entry.digest[:KEY_WIDTH]
    return f"{digits}  {what}: {_graphs(entry.graphs)}, {in_words(entry.size)}"


def _graphs(number: int) -> str:
    return f"{number} graph{'' if number == 1 else 's'}"

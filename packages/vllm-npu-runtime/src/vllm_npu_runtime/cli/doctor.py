"""``vllm-npu doctor``: what is wrong here, and how to mend it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_npu_runtime.doctor.result import Result

STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
STATUS_WIDTH = 9
NAME_WIDTH = 13


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Print a report for a bug report, in Markdown.")
    ] = False,
) -> None:
    """Say what is wrong here, and how to mend it.

    Ends with status 1 if anything is.
    """
    if as_json and report:
        raise typer.BadParameter("--json and --report exclude each other; give one.")

    from vllm_npu_runtime import __version__
    from vllm_npu_runtime.cli.console import wide_console
    from vllm_npu_runtime.doctor.environment import Environment
    from vllm_npu_runtime.doctor.registry import run
    from vllm_npu_runtime.doctor.report import markdown
    from vllm_npu_runtime.doctor.result import Status

    environment = Environment.current()
    results = run(environment)
    failed = any(result.status is Status.ERROR for result in results)
    if as_json:
        found = {"version": __version__, "ok": not failed, "checks": list(map(asdict, results))}
        typer.echo(json.dumps(found, indent=2))
    elif report:
        typer.echo(markdown(environment, results))
    else:
        _print(results, wide_console())
    if failed:
        raise typer.Exit(1)


def _print(results: Sequence[Result], console: Console) -> None:
    from rich.text import Text

    margin = " " * (STATUS_WIDTH + NAME_WIDTH)
    for result in results:
        line = Text(f"{result.status:{STATUS_WIDTH}}", style=STYLES[result.status])
        line.append(f"{result.name:{NAME_WIDTH}}", style="bold")
        line.append(result.detail.replace("\n", f"\n{margin}"), style="not bold default")
        if result.fix:
            line.append(f"\n{margin}fix: {result.fix}", style="not bold default")
        # The terminal wraps: rich would break commands that are to be copied.
        console.print(line, soft_wrap=True)
    console.print(_summary(results))


def _summary(results: Sequence[Result]) -> str:
    counts = Counter(result.status.value for result in results)
    found = [
        f"{counts[status]} {status}{'s' if counts[status] > 1 else ''}"
        for status in ("error", "warning")
        if counts[status]
    ]
    return f"{' and '.join(found) or 'Nothing wrong'}."

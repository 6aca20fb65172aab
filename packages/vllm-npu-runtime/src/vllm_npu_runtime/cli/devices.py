"""``vllm-npu devices``: what models can run on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_npu_runtime.doctor.sizes import in_words

if TYPE_CHECKING:
    from rich.table import Table

    from vllm_npu_runtime.doctor.inventory import DeviceReport, DriverReport

COLUMNS = ("Device", "What it is", "Memory", "Free", "NPU", "dtypes", "KV contracts", "Driver")


def devices(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the devices that the installed drivers find."""
    from vllm_npu_runtime.cli.console import wide_console
    from vllm_npu_runtime.doctor.inventory import inventory

    reports = inventory()
    if as_json:
        typer.echo(json.dumps({"drivers": [each.model_dump() for each in reports]}, indent=2))
    else:
        console = wide_console()
        console.print(_table(reports))
        console.print(
            "Choose one with VLLM_NPU_DEVICE. Unset, it is the first NPU; without an NPU, vLLM "
            "does not use this suite.",
            soft_wrap=True,
        )
    if not any(report.devices for report in reports):
        raise typer.Exit(1)


def _table(reports: list[DriverReport]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(*COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    for report in reports:
        for device in report.devices:
            table.add_row(*_cells(device), report.version or "")
        if report.error is not None:
            table.add_row(report.name, f"fails: {report.error}", style="red")
        elif not report.devices:
            table.add_row(report.name, "finds no device", *[""] * 5, report.version or "")
    return table


def _cells(device: DeviceReport) -> tuple[str, ...]:
    failure = f"; fails: {device.error}" if device.error is not None else ""
    return (
        device.name,
        device.description + failure,
        in_words(device.total_memory),
        in_words(device.free_memory),
        "yes" if device.is_npu else "no",
        ", ".join(device.dtypes),
        ", ".join(device.kv_contracts),
    )

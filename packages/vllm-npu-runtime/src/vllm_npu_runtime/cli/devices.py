"""``vllm-npu devices``: what models can run on."""

from __future__ import annotations

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
    from vllm_npu_runtime.doctor.environment import Environment

    environment = Environment.current()
    found = environment.find()
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        console = wide_console()
        console.print(_table(found.drivers))
        chosen = f"vLLM runs on {found.device}." if found.device else found.device_error
        console.print(f"VLLM_NPU_DEVICE={environment.device_as_given}: {chosen}", soft_wrap=True)
    if not any(report.devices for report in found.drivers):
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
        ", ".join(_dtype(each, device.arithmetic.get(each)) for each in device.dtypes),
        ", ".join(device.kv_contracts),
    )


def _dtype(name: str, computed: str | None) -> str:
    return f"{name} (computed in {computed})" if computed else name

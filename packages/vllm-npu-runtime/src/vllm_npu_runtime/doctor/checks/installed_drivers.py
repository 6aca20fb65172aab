"""Which drivers are installed, and what do they find?"""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.inventory import DriverReport
from vllm_npu_runtime.doctor.result import Result, error, note, ok, warning


def check(environment: Environment) -> Iterator[Result]:
    """Load each one. A driver that isn't the chosen one may fail: that is a warning."""
    if not environment.drivers:
        yield error(
            "No driver is installed.",
            "Reinstall vllm-npu-runtime, which brings drivers 'reference' and 'sim'.",
        )
    chosen = environment.device.partition(":")[0]
    for report in environment.find().drivers:
        yield from _of(report, chosen)


def _of(report: DriverReport, chosen: str) -> Iterator[Result]:
    if report.error is not None:
        fail = error if report.name == chosen else warning
        yield fail(
            f"Driver '{report.name}' fails: {report.error}",
            "Do what the message says, or reinstall the package that brings driver "
            f"'{report.name}' and its vendor's runtime. A driver that you don't need may stay so.",
        )
        return
    broken = [device for device in report.devices if device.error]
    for device in broken:
        yield warning(
            f"Device '{device.name}' fails: {device.error}",
            "Check the device with its vendor's tools.",
        )
    if report.devices:
        names = ", ".join(device.name for device in report.devices)
        yield ok(f"{report.name} ({report.version}): {names}")
    else:
        yield note(f"{report.name} ({report.version}) finds no device.")

"""The report that goes into a bug report, in Markdown."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator

import psutil

from vllm_npu_runtime import __version__
from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.redaction import without_secrets, without_whereabouts
from vllm_npu_runtime.doctor.result import Result
from vllm_npu_runtime.doctor.sizes import in_words

PREFIXES = ("VLLM_", "OMP_", "HF_HUB_OFFLINE", "NPU_", "ONEDNN_MAX_CPU_ISA")


def markdown(environment: Environment, results: Iterable[Result]) -> str:
    """The whole report, without secrets, the paths of homes, and the user's name."""
    sections = {
        f"vllm-npu {__version__}": _machine(),
        "Versions": _versions(environment),
        "Devices": _devices(environment),
        "Variables": _variables(environment),
        "Checks": _checks(results),
    }
    parts = ["\n".join([f"### {title}", "", *lines]) for title, lines in sections.items()]
    return without_whereabouts("\n\n".join(parts))


def _machine() -> Iterator[str]:
    memory = psutil.virtual_memory()
    yield f"- System: {platform.platform()}{_distribution()}"
    yield f"- CPU: {_processor()}, {psutil.cpu_count(logical=False)} cores, " + (
        f"{psutil.cpu_count()} threads"
    )
    yield f"- Memory: {in_words(memory.total)}, {in_words(memory.available)} free"


def _distribution() -> str:
    try:
        return f", {platform.freedesktop_os_release()['PRETTY_NAME']}"
    except (OSError, KeyError):  # not Linux, or a bare container
        return ""


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = (line.partition(":")[2].strip() for line in file if "model name" in line)
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()


def _versions(environment: Environment) -> Iterator[str]:
    yield f"- Python {environment.python}"
    for name, found in environment.installed.items():
        yield f"- {name} {found.version}"


def _devices(environment: Environment) -> Iterator[str]:
    for report in environment.find().drivers:
        yield f"- {report.name} {report.version or ''}: {report.error or 'ok'}"
        for device in report.devices:
            kind = ", NPU" if device.is_npu else ""
            memory = in_words(device.total_memory)
            wide = "".join(f", {each} in {in_}" for each, in_ in device.arithmetic.items())
            yield f"  - {device.name}: {device.description}, {memory}{kind}{wide}"


def _variables(environment: Environment) -> list[str]:
    lines = [
        f"- `{name}={without_secrets(name, value)}`"
        for name, value in sorted(environment.variables.items())
        if name.startswith(PREFIXES)
    ]
    return lines or ["None is set."]


def _checks(results: Iterable[Result]) -> Iterator[str]:
    yield "| Check | Status | Detail |"
    yield "|---|---|---|"
    for result in results:
        detail = result.detail.replace("|", r"\|").replace("\n", "<br>")
        yield f"| {result.name} | {result.status} | {detail} |"

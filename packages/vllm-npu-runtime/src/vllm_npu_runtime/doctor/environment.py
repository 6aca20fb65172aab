"""The facts that checks look at, gathered in one object so that tests can invent them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, entry_points

from vllm_npu_runtime import drivers
from vllm_npu_runtime.device import AUTO
from vllm_npu_runtime.doctor.probe import Found, probe

SIBLINGS = (
    "vllm-npu-runtime",
    "vllm-npu-platform",
    "vllm-npu",
    "vllm-npu-models",
    "vllm-npu-quantization",
    "vllm-npu-kv-connector",
)
OTHERS = ("vllm", "torch", "torchvision", "numba", "npu-vllm", "transformers")

PLUGIN_GROUPS = (
    "vllm.platform_plugins",
    "vllm.general_plugins",
    "vllm.stat_logger_plugins",
    "vllm.io_processor_plugins",
    "vllm.endpoint_plugins",
    "vllm.logits_processors",
)
"""The groups that one list, `VLLM_PLUGINS`, is about."""

IMPORT_SECONDS = 60


@dataclass(frozen=True)
class Installed:
    """An installed distribution, as its metadata tells.

    Attributes:
        version: as it is.
        requires: names of what it requires, without versions.
        owns_vllm: it brings files of vLLM's own package.
    """

    version: str
    requires: frozenset[str] = frozenset()
    owns_vllm: bool = False


@dataclass(frozen=True)
class Environment:
    """What checks look at. The defaults are an empty machine.

    Attributes:
        variables: environment variables.
        python: version of Python.
        installed: distributions by normalized name; only those that some check asks for.
        plugins: entry points of `PLUGIN_GROUPS`.
        drivers: names of the installed drivers.
        import_error: imports a module in a process of its own; says what went wrong, or "".
        find: looks for devices in a process of its own: all of them, and the one that is named.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    python: str = "3.11.0"
    installed: Mapping[str, Installed] = field(default_factory=dict)
    plugins: tuple[EntryPoint, ...] = ()
    drivers: tuple[str, ...] = ()
    import_error: Callable[[str], str] = lambda module: ""
    find: Callable[[], Found] = Found

    @property
    def device(self) -> str:
        """The device that the environment asks for."""
        return self.variables.get("VLLM_NPU_DEVICE", AUTO)

    @property
    def device_as_given(self) -> str:
        """The same, for people: whether the user chose it."""
        return self.device if "VLLM_NPU_DEVICE" in self.variables else f"{AUTO} (the default)"

    def version(self, name: str) -> str | None:
        """Version of a distribution; None if it isn't installed."""
        found = self.installed.get(name)
        return found.version if found else None

    @classmethod
    def current(cls) -> Environment:
        """This process's environment. Devices are looked for once, when a check asks."""
        variables = dict(os.environ)
        names = tuple(drivers.available())
        wanted = variables.get("VLLM_NPU_DEVICE", AUTO)
        points = entry_points()
        return cls(
            variables=variables,
            python=platform.python_version(),
            installed=_installed((*SIBLINGS, *OTHERS)),
            plugins=tuple(p for group in PLUGIN_GROUPS for p in points.select(group=group)),
            drivers=names,
            import_error=_import_error,
            find=cache(lambda: probe(names, wanted)),
        )


def _installed(names: tuple[str, ...]) -> dict[str, Installed]:
    found = {}
    for name in names:
        try:
            distribution = Distribution.from_name(name)
        except PackageNotFoundError:
            continue
        found[name] = Installed(
            distribution.version or "unknown",
            frozenset(_requirement_name(line) for line in distribution.requires or ()),
            any(file.parts[0] == "vllm" for file in distribution.files or ()),
        )
    return found


def _requirement_name(line: str) -> str:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return line


def _import_error(module: str) -> str:
    # -P: a file of that name in the working directory is not what is meant.
    command = [sys.executable, "-P", "-c", f"import {module}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the import took more than {IMPORT_SECONDS} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the import ended with status {done.returncode}"

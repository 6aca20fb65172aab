"""The checks, in the order of the report. Each is the function `check` of a module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Check, Result, error

CHECKS = {
    "python": "python_version",
    "vllm": "vllm_version",
    "torch": "torch_version",
    "packages": "sibling_versions",
    "impostor": "impostor",
    "drivers": "installed_drivers",
    "device": "chosen_device",
    "settings": "variables",
    "plugins": "plugin_filter",
    "platforms": "other_platforms",
    "torchvision": "broken_torchvision",
    "numba": "numba_present",
    "cache": "compile_cache",
    "openmp": "openmp_waiting",
    "hub": "model_hub",
}


def run(environment: Environment) -> list[Result]:
    """Every finding of every check. A check that breaks is a finding too."""
    return [
        replace(result, name=name)
        for name, module in CHECKS.items()
        for result in _findings(name, module, environment)
    ]


def _findings(name: str, module: str, environment: Environment) -> Iterator[Result]:
    check: Check = import_module(f"vllm_npu_runtime.doctor.checks.{module}").check
    try:
        yield from check(environment)
    except Exception as problem:  # the rest of the report is worth having
        yield error(
            f"This check broke: {type(problem).__name__}: {problem}",
            f"Report it with the output of `vllm-npu doctor --report`; it is check '{name}'.",
        )

"""Invented machines, and what the doctor finds on them."""

from dataclasses import replace
from importlib.metadata import EntryPoint

from vllm_npu_runtime.doctor import registry
from vllm_npu_runtime.doctor.environment import Environment, Installed
from vllm_npu_runtime.doctor.inventory import DeviceReport
from vllm_npu_runtime.doctor.probe import Found
from vllm_npu_runtime.doctor.result import Result, Status

OURS = frozenset({"vllm-npu-runtime", "vllm-npu-platform"})
HOST = DeviceReport(
    name="reference",
    description="host",
    is_npu=False,
    total_memory=2**33,
    free_memory=2**32,
    shares_host_memory=True,
)


def plugin(name: str, group: str = "vllm.general_plugins", value: str = "other:f") -> EntryPoint:
    return EntryPoint(name, value, group)


PLATFORM = plugin("npu", "vllm.platform_plugins", "vllm_npu_platform:register")
EXPLAINER = plugin("npu_stats", "vllm.platform_plugins", "vllm_npu_platform:explain_filter")
STATISTICS = plugin("npu_stats", "vllm.stat_logger_plugins", "vllm_npu_platform.stats:Logger")


def having(environment: Environment, **installed: Installed | None) -> Environment:
    """With other distributions; None takes one away. Underscores stand for hyphens."""
    changed = {name.replace("_", "-"): found for name, found in installed.items()}
    everything = {**environment.installed, **changed}
    kept = {name: found for name, found in everything.items() if found}
    return replace(environment, installed=kept)


def setting(environment: Environment, **variables: str) -> Environment:
    return replace(environment, variables={**environment.variables, **variables})


def finding(environment: Environment, check: str, status: Status) -> Result:
    """The only finding of that check that is that bad."""
    results = [each for each in registry.run(environment) if each.name == check]
    matching = [each for each in results if each.status is status]
    assert len(matching) == 1, results
    return matching[0]


def with_found(environment: Environment, found: Found) -> Environment:
    return replace(environment, find=lambda: found)

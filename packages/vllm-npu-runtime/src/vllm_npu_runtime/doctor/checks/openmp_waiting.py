"""Do idle OpenMP threads sleep?"""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, note, ok


def check(environment: Environment) -> Iterator[Result]:
    """Advice only: it is about speed on hosts that are shared or have few cores."""
    policy = environment.variables.get("OMP_WAIT_POLICY")
    if policy is not None and policy.lower() == "passive":
        yield ok(f"OMP_WAIT_POLICY={policy}")
    else:
        yield note(
            "Idle OpenMP threads spin, and take the cores that vLLM's other processes need.",
            "On a shared host, or one with few cores: `export OMP_WAIT_POLICY=passive`",
        )

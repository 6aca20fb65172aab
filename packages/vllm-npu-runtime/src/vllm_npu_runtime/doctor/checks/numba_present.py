"""Is numba there? vLLM's n-gram speculation imports it without requiring it."""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, ok, warning


def check(environment: Environment) -> Iterator[Result]:
    """Only where vLLM is."""
    version = environment.version("numba")
    if version is not None:
        yield ok(version)
    elif environment.version("vllm") is None:
        yield ok("Not installed, and not needed without vLLM.")
    else:
        yield warning("Not installed: n-gram speculation fails at start-up.", "`pip install numba`")

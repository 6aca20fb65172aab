"""Is it a Python that vLLM and the suite run on?"""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, error, ok
from vllm_npu_runtime.doctor.supported import PYTHON, within


def check(environment: Environment) -> Iterator[Result]:
    """Compare with the supported range."""
    version = environment.python
    if within(version, PYTHON):
        yield ok(version)
    else:
        yield error(
            f"{version}: not one of {PYTHON}.",
            "Make the environment anew with another Python, as in "
            "`uv venv --python 3.11 --seed .venv`.",
        )

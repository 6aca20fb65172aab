"""Our environment variables, in vLLM's list of known ones."""

import os
from collections.abc import Callable

from vllm_npu_runtime.settings import environment_variables


def register_environment_variables() -> None:
    """vLLM warns of any `VLLM_…` variable that isn't in its table, so put ours there."""
    import vllm.envs

    def reader(name: str) -> Callable[[], str | None]:
        return lambda: os.environ.get(name)

    for name in environment_variables():
        vllm.envs.environment_variables.setdefault(name, reader(name))

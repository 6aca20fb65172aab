"""Environment variables: ours among those that vLLM knows, and vLLM's that we set."""

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


def use_first_runner() -> None:
    """Choose vLLM's V1 model runner, which ours extends, unless the user chose.

    vLLM would take its second one wherever Triton finds a GPU, even if the model isn't to run
    there.
    """
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")


def let_waiting_threads_sleep() -> None:
    """Have OpenMP's threads in the engine's processes sleep between loops, unless the user chose.

    They share the cores with the driver's own, and by default would spin there for milliseconds.
    Only processes started after this obey: OpenMP reads the variable once.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

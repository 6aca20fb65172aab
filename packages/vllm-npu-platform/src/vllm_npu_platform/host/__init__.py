"""Where vLLM's code meets a host without a GPU."""

from vllm_npu_platform.host.cuda import stand_in_for_cuda
from vllm_npu_platform.host.environment import (
    register_environment_variables,
    spawn_workers,
    use_first_runner,
)

__all__ = [
    "register_environment_variables",
    "spawn_workers",
    "stand_in_for_cuda",
    "use_first_runner",
]

"""Defaults of the configuration on this platform."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.config import VllmConfig


SCHEDULER = "vllm_npu_platform.scheduling.scheduler"
"""For vLLM's `scheduler_cls`."""


def apply_defaults(vllm_config: VllmConfig) -> None:
    """Switch vLLM's own compilation off where the user left it open.

    The graph executor captures and compiles the model. vLLM's Inductor passes and CUDA graphs
    would do it a second time.
    """
    from vllm.config import CompilationMode, CUDAGraphMode

    compilation = vllm_config.compilation_config
    if compilation.mode is None:
        compilation.mode = CompilationMode.NONE
    if compilation.cudagraph_mode is None:
        compilation.cudagraph_mode = CUDAGraphMode.NONE
    # Marks custom operators as opaque for Inductor; ours are traced through.
    compilation.ir_enable_torch_wrap = False


def use_own_scheduler(vllm_config: VllmConfig) -> None:
    """End requests whose numbers are NaN or infinite, unless the user brings a scheduler.

    Models with a session have a scheduler of their own.
    """
    scheduler = vllm_config.scheduler_config
    if scheduler.scheduler_cls is None:
        scheduler.scheduler_cls = SCHEDULER


def quiet_about_own_scheduler() -> None:
    """Drop vLLM's warning of a user's own scheduler class, which this one isn't."""
    logging.getLogger("vllm.config.scheduler").addFilter(_not_of_ours)


def _not_of_ours(record: logging.LogRecord) -> bool:
    return not (isinstance(record.args, tuple) and record.args[:1] == (SCHEDULER,))

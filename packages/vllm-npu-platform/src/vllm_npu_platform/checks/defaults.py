"""Defaults of the configuration on this platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.config import VllmConfig


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

"""Defaults of the configuration on this platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def apply_defaults(vllm_config: VllmConfig) -> None:
    """Switch vLLM's own compilation off where the user left it open.

    The graph executor captures and compiles the model. vLLM's Inductor passes and CUDA graphs
    would do it a second time.

    Raises:
        ConfigurationError: CUDA graphs were asked for. Refused here, because vLLM clears the mode
            before it asks for the other checks.
    """
    from vllm.config import CompilationMode, CUDAGraphMode

    compilation = vllm_config.compilation_config
    if compilation.mode is None:
        compilation.mode = CompilationMode.NONE
    if compilation.cudagraph_mode not in (None, CUDAGraphMode.NONE):
        raise ConfigurationError(
            f"--compilation-config cudagraph_mode {compilation.cudagraph_mode.name}: there is no "
            "CUDA here. Leave it out."
        )
    compilation.cudagraph_mode = CUDAGraphMode.NONE
    # Marks custom operators as opaque for Inductor; ours are traced through.
    compilation.ir_enable_torch_wrap = False

"""What vLLM has to know of: a kernel for out-of-tree platforms, and configs for ours."""

from __future__ import annotations

from functools import cache


@cache
def register_all() -> None:
    """Register with vLLM, once in a process.

    The kernel declines on any platform but ours. The configs take names that vLLM has configs for,
    so they are registered on ours alone.
    """
    from vllm.model_executor.kernels.linear import register_linear_kernel
    from vllm.platforms import PlatformEnum

    from vllm_npu_quantization.kernel import NPUWNA16LinearKernel
    from vllm_npu_quantization.target import on_our_platform

    register_linear_kernel(NPUWNA16LinearKernel, PlatformEnum.OOT, "mp")
    if not on_our_platform():
        return

    from vllm.model_executor.layers.quantization import register_quantization_config

    from vllm_npu_quantization.configs.awq import NPUAWQConfig
    from vllm_npu_quantization.configs.compressed_tensors import NPUCompressedTensorsConfig
    from vllm_npu_quantization.configs.gptq import NPUGPTQConfig
    from vllm_npu_quantization.on_load.config import NPUW4A16Config, NPUW8A16Config

    for config, names in {
        NPUGPTQConfig: ("gptq", "auto_gptq", "gptq_marlin"),
        NPUAWQConfig: ("awq", "auto_awq", "awq_marlin"),
        NPUCompressedTensorsConfig: ("compressed-tensors",),
        NPUW4A16Config: (NPUW4A16Config.NAME,),
        NPUW8A16Config: (NPUW8A16Config.NAME,),
    }.items():
        for name in names:
            register_quantization_config(name)(config)

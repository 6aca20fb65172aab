"""Quantized checkpoints on NPUs: GPTQ, AWQ and compressed-tensors, with 4 or 8 bits a weight.

vLLM calls `register` in every process. Importing this package imports neither torch nor vllm.
"""

__version__ = "0.1.0"


def register() -> None:
    """Entry point `npu_quantization` of ``vllm.general_plugins``; calling it again does nothing."""
    from vllm_npu_quantization.registration import register_all

    register_all()

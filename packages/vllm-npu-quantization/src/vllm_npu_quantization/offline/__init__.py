"""A checkpoint quantized ahead of time, as `vllm-npu quantize` writes it."""

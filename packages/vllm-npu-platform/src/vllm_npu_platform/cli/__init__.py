"""Commands that this package adds to `vllm-npu`."""

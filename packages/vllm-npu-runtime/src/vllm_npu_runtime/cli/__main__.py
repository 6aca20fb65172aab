"""``python -m vllm_npu_runtime.cli``: the command, without its script."""

from vllm_npu_runtime.cli import main

main()

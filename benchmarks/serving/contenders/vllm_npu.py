"""Our platform, on the device that VLLM_NPU_DEVICE names."""

from __future__ import annotations

from typing import Any

from benchmarks.serving.contenders.vllm_engine import VLLMEngine


def counted(worker: Any) -> float:
    """Seconds in compiled programs, read in the engine's process."""
    return float(worker.counters.values["device_seconds"])


class Contender(VLLMEngine):
    """`vllm.LLM` with the plugin."""

    packages = ("vllm", "vllm-npu-platform", "torch", "openvino")

    def device_seconds(self) -> float | None:
        (seconds,) = self.llm.collective_rpc(counted)
        return float(seconds)

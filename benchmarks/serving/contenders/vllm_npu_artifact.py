"""Our platform with the model compiled ahead of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.serving import artifact
from benchmarks.serving.contenders.vllm_engine import VLLMEngine


class Contender(VLLMEngine):
    """`vllm.LLM` on an artifact; what a graph takes was decided when it was compiled."""

    packages = ("vllm", "vllm-npu-platform", "vllm-npu-models", "torch", "openvino")

    def start(self, checkpoint: Path, room: dict[str, Any]) -> None:
        from vllm import LLM

        self.settings = {
            "max_model_len": room["max_model_len"],
            "max_num_seqs": room["max_num_seqs"],
            "enable_prefix_caching": False,
        }
        self.llm = LLM(str(artifact.where(checkpoint)), **self.settings)

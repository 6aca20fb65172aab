"""OpenVINO's stateful pipeline: one model with its KV in states, a batch padded to one length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.serving import artifact
from benchmarks.serving.arithmetic import NAMES
from benchmarks.serving.contenders import base


class Contender(base.Engine):
    """`LLMPipeline` on the CPU with the backend "SDPA", everything in one dtype, on the graphs of
    our artifact."""

    packages = ("openvino-genai", "openvino")

    def load(self) -> None:
        import openvino_genai  # noqa: F401

    def start(self, checkpoint: Path, room: dict[str, Any]) -> None:
        import openvino_genai

        self.settings = {
            "ATTENTION_BACKEND": "SDPA",
            "INFERENCE_PRECISION_HINT": NAMES[room["dtype"]],
            "KV_CACHE_PRECISION": NAMES[room["dtype"]],
            "INFERENCE_NUM_THREADS": room["threads"],
        }
        self.pipeline = openvino_genai.LLMPipeline(
            artifact.stateful(checkpoint), "CPU", **self.settings
        )

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        import numpy
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        ids = numpy.array(prompts, dtype=numpy.int64)
        inputs = openvino_genai.TokenizedInputs(
            openvino.Tensor(ids), openvino.Tensor(numpy.ones_like(ids))
        )
        return [list(tokens) for tokens in self.pipeline.generate(inputs, config).tokens]

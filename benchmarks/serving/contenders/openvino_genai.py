"""OpenVINO's own server engine: the continuous batching pipeline of openvino_genai."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.serving import export
from benchmarks.serving.arithmetic import NAMES
from benchmarks.serving.contenders import base


class Contender(base.Engine):
    """`ContinuousBatchingPipeline` on the CPU, everything in one dtype."""

    packages = ("openvino-genai", "openvino")

    def load(self) -> None:
        import openvino_genai  # noqa: F401

    def start(self, checkpoint: Path, room: dict[str, Any]) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = room["kv_cache_gib"]
        scheduler.max_num_seqs = room["max_num_seqs"]
        # Enough for a whole batch of prompts in a step.
        scheduler.max_num_batched_tokens = 4096
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = False
        properties = {
            "INFERENCE_PRECISION_HINT": NAMES[room["dtype"]],
            "KV_CACHE_PRECISION": NAMES[room["dtype"]],
            "INFERENCE_NUM_THREADS": room["threads"],
        }
        self.settings = {
            **properties,
            "cache_size": scheduler.cache_size,
            "max_num_seqs": scheduler.max_num_seqs,
            "max_num_batched_tokens": scheduler.max_num_batched_tokens,
            "dynamic_split_fuse": scheduler.dynamic_split_fuse,
            "enable_prefix_caching": scheduler.enable_prefix_caching,
        }
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(
            export.where(checkpoint), scheduler, "CPU", properties
        )

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        import numpy
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        arrays = [numpy.array([prompt], dtype=numpy.int64) for prompt in prompts]
        results = self.pipeline.generate(
            [openvino.Tensor(array) for array in arrays], [config] * len(prompts)
        )
        return [list(result.m_generation_ids[0]) for result in results]

    def close(self) -> None:
        del self.pipeline

"""vLLM's offline class, for our platform and for vLLM's own CPU platform alike.

The engine core has a process of its own, as under `vllm serve`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.serving.contenders import base


class VLLMEngine(base.Engine):
    """`vllm.LLM`; subclasses add options."""

    options: dict[str, Any] = {}  # noqa: RUF012

    def load(self) -> None:
        from vllm import LLM, SamplingParams  # noqa: F401

    def start(self, checkpoint: Path, room: dict[str, Any]) -> None:
        from vllm import LLM

        self.settings = {
            "dtype": room["dtype"],
            "max_model_len": room["max_model_len"],
            "max_num_seqs": room["max_num_seqs"],
            "kv_cache_memory_bytes": room["kv_cache_gib"] << 30,
            "enable_prefix_caching": False,
            **self.options,
        }
        self.llm = LLM(str(checkpoint), **self.settings)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        from vllm import SamplingParams

        results = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False),
            use_tqdm=False,
        )
        return [list(result.outputs[0].token_ids) for result in results]

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()

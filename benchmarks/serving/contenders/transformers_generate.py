"""Hugging Face transformers' `generate`: one static batch, eager PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.serving.contenders import base


class Contender(base.Engine):
    """`LlamaForCausalLM.generate` with attention of PyTorch."""

    packages = ("transformers", "torch")

    def load(self) -> None:
        import torch  # noqa: F401
        from transformers import AutoModelForCausalLM  # noqa: F401

    def start(self, checkpoint: Path, room: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(room["threads"])
        self.settings = {"dtype": room["dtype"], "attn_implementation": "sdpa"}
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, **self.settings).eval()

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        import torch

        ids = torch.tensor(prompts)
        result = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            do_sample=False,
        )
        new: list[list[int]] = result[:, ids.shape[1] :].tolist()
        return new

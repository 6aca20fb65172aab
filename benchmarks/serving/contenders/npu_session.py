"""The session of an artifact alone, stepped by a loop of a few lines: what a library offers, as
openvino_genai's pipeline does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.serving import artifact
from benchmarks.serving.contenders import base


class Contender(base.Engine):
    """`vllm_npu_runtime.sessions`, greedy."""

    packages = ("vllm-npu-runtime", "torch", "openvino")

    def load(self) -> None:
        import torch  # noqa: F401

    def start(self, checkpoint: Path, room: dict[str, Any]) -> None:
        from vllm_npu_runtime.sessions.base import SessionOptions
        from vllm_npu_runtime.sessions.opening import open_session

        options = SessionOptions(slots=room["max_num_seqs"], max_length=room["max_model_len"])
        self.settings = {"slots": options.slots, "max_length": options.max_length}
        self.session = open_session(artifact.where(checkpoint), None, options)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        import torch

        from vllm_npu_runtime.sessions.base import Row

        rows = [Row(slot, 0, torch.tensor(prompt)) for slot, prompt in enumerate(prompts)]
        lasts = torch.tensor([len(prompt) for prompt in prompts]).cumsum(0) - 1
        made = []
        for _ in range(new_tokens):
            hidden = self.session.infer(rows).values[lasts]
            tokens = torch.from_numpy(self.session.logits(hidden).numpy().argmax(axis=1))
            made.append(tokens)
            rows = [
                Row(row.slot, row.past + row.count, tokens[index : index + 1])
                for index, row in enumerate(rows)
            ]
            lasts = torch.arange(len(rows))
        return torch.stack(made, dim=1).tolist()

    def close(self) -> None:
        self.session.close()

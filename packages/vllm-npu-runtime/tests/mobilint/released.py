"""Directories like those that Mobilint releases, and what they must answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vllm_npu_runtime.drivers.mobilint import MobilintDriver
from vllm_npu_runtime.mobilint.session import MobilintSession
from vllm_npu_runtime.sessions.base import Placement, Row, SessionOptions

from .fake import expected, write_model

HIDDEN, VOCAB = 8, 11


class Released:
    """A model's directory.

    Args:
        directory: made anew.
        config: fields of config.json; None leaves one out.
        name: of the embeddings.
        compiled: fields of the model file, as `fake.write_model` has them.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any] | None = None,
        name: str = "model.embed_tokens.weight",
        **compiled: Any,
    ) -> None:
        self.directory = directory
        directory.mkdir()
        self.table = torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(0))
        save_file({name: self.table}, directory / "model.safetensors")
        self.config: dict[str, Any] = {
            "architectures": ["MobilintLlamaForCausalLM"],
            "hidden_size": HIDDEN,
            "vocab_size": VOCAB,
            "core_mode": "single",
            "mxq_path": "model.mxq",
            "max_batch_size": 1,
            "target_cores": ["0:0"],
            "dev_no": 0,
        }
        self.say(**config or {})
        self.compile(**compiled)

    def say(self, **fields: Any) -> None:
        """Change config.json."""
        self.config |= fields
        said = {name: value for name, value in self.config.items() if value is not None}
        (self.directory / "config.json").write_text(json.dumps(said))

    def compile(self, file: str = "model.mxq", **compiled: Any) -> None:
        """Write a model file."""
        write_model(self.directory / file, hidden=HIDDEN, vocab=VOCAB, **compiled)
        self.compiled = json.loads((self.directory / file).read_text())

    def open(
        self,
        slots: int = 1,
        device: str = "0",
        placement: dict[str, Any] | None = None,
        **rest: Any,
    ) -> MobilintSession:
        """A session, by way of the driver."""
        options = SessionOptions(slots, placement=Placement(**placement or {}), **rest)
        session = MobilintDriver().open_session(self.directory, device, options)
        assert isinstance(session, MobilintSession)
        return session

    def logits(self, tokens: list[int]) -> torch.Tensor:
        """What a request of these tokens must give, `[n, vocab]`."""
        return torch.from_numpy(expected(self.compiled, self.table[tokens].numpy())).float()


def row(slot: int, past: int, tokens: list[int]) -> Row:
    """A row of token ids."""
    return Row(slot, past, torch.tensor(tokens))


def prompt(length: int, seed: int = 0) -> list[int]:
    """Some tokens."""
    made = torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(seed))
    return [int(token) for token in made]


def close(given: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal, up to the order in which sums are taken."""
    return torch.allclose(given, wanted, atol=1e-4, rtol=1e-4)

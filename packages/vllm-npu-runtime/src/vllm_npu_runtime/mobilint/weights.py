"""Token embeddings of a Mobilint model, which its directory holds as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

ENDINGS = ("embed_tokens.weight", "wte.weight")
"""How the tensor's name ends, by family; what stands before it differs."""


def embeddings(directory: Path, vocab_size: int, hidden_size: int) -> torch.Tensor:
    """The table, `[vocab_size, hidden_size]`, in the dtype of the file.

    Raises:
        ConfigurationError: there is none, or more than one, or it has another shape.
    """
    from safetensors import SafetensorError, safe_open

    found: list[tuple[Path, str]] = []
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                found += [(path, name) for name in file.keys() if name.endswith(ENDINGS)]  # noqa: SIM118
        except SafetensorError as error:
            raise ConfigurationError(
                f"{path} is damaged: {error}. Download the model anew."
            ) from error
    if len(found) != 1:
        names = ", ".join(f"'{name}' in {path.name}" for path, name in found) or "none"
        raise ConfigurationError(
            f"Token embeddings in {directory}: one tensor whose name ends in "
            f"{' or '.join(ENDINGS)} is needed in its .safetensors files; found {names}."
        )
    path, name = found[0]
    with safe_open(path, "pt") as file:
        table: torch.Tensor = file.get_tensor(name)
    if tuple(table.shape) != (vocab_size, hidden_size) or not table.is_floating_point():
        raise ConfigurationError(
            f"Token embeddings '{name}' in {path} are {table.dtype} {list(table.shape)}; "
            f"config.json says floating-point [{vocab_size}, {hidden_size}]."
        )
    return table

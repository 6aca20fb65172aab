"""A checkpoint to compile: a directory, or a model on the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.export.families import FAMILIES, Family

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""Files that go into the artifact as they are."""
TEMPLATES = "additional_chat_templates"
_WANTED = [CONFIG, "*.safetensors", INDEX, *COMPANIONS, f"{TEMPLATES}/*.jinja"]


@dataclass(frozen=True)
class Source:
    """A checkpoint.

    Attributes:
        name: as the user gave it.
        directory: that holds it.
        config: its `config.json`.
        family: that it belongs to.
        files: the file of each tensor, by the tensor's name in `transformers`, and its name there.
    """

    name: str
    directory: Path
    config: dict[str, Any]
    family: Family
    files: dict[str, tuple[Path, str]]

    @contextmanager
    def reading(self) -> Iterator[Tensors]:
        """Open its files."""
        with ExitStack() as stack:
            yield Tensors(self, stack)

    def companions(self) -> Iterator[Path]:
        """Files that go into the artifact as they are, by their paths within."""
        names = [*COMPANIONS]
        names += sorted(
            path.relative_to(self.directory).as_posix()
            for path in (self.directory / TEMPLATES).glob("*.jinja")
        )
        yield from (Path(name) for name in names if (self.directory / name).is_file())


class Tensors:
    """Tensors of a checkpoint, read one at a time."""

    def __init__(self, source: Source, stack: ExitStack) -> None:
        from safetensors import SafetensorError, safe_open

        self._files = source.files
        self._open: dict[Path, Any] = {}
        for path in sorted({path for path, _ in source.files.values()}):
            try:
                self._open[path] = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise ConfigurationError(
                    f"{path} can't be read: {error}. Download the checkpoint again."
                ) from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor; read from the file's header."""
        path, there = self._files[name]
        return tuple(self._open[path].get_slice(there).get_shape())

    def __getitem__(self, name: str) -> torch.Tensor:
        path, there = self._files[name]
        tensor: torch.Tensor = self._open[path].get_tensor(there)
        return tensor


def find(model: str | Path) -> Source:
    """The checkpoint that a user names, downloaded if it isn't a directory.

    Raises:
        ConfigurationError: there is none, or not of a kind that can be compiled.
    """
    directory = _directory(str(model))
    config = _json(directory / CONFIG)
    family = _family(str(model), config)
    return Source(str(model), directory, config, family, _files(directory, family))


def _directory(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    if Path(model).exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigurationError(
            f"{model} is no directory. Name one that holds a Hugging Face checkpoint, or a model "
            "on the Hub, as in Qwen/Qwen3-0.6B."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()
        raise ConfigurationError(
            f"{model} is no directory, and can't be downloaded: "
            f"{first[0] if first else type(error).__name__}"
        ) from error


def _family(model: str, config: dict[str, Any]) -> Family:
    """The family of a config.

    Raises:
        ConfigurationError: there is none, or the checkpoint is quantized.
    """
    named = config.get("architectures") or ["none"]
    if (family := FAMILIES.get(str(named[0]))) is None:
        remote = (
            " It brings code of its own (auto_map), which is never run."
            if "auto_map" in config
            else ""
        )
        raise ConfigurationError(
            f"{model} is of architecture {named[0]}, which can't be compiled.{remote} "
            f"Known: {', '.join(FAMILIES)}."
        )
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            method = dict(config[key]).get("quant_method", "unknown method")
            raise ConfigurationError(
                f"{model} is quantized already ({method}; {key} in {CONFIG}). Compile the "
                "original checkpoint, and choose --weights int8 or int4."
            )
    return family


def _files(directory: Path, family: Family) -> dict[str, tuple[Path, str]]:
    """Where each tensor is."""
    from safetensors import SafetensorError, safe_open

    if (directory / INDEX).is_file():
        listed: dict[str, str] = _json(directory / INDEX).get("weight_map") or {}
        if strange := sorted({name for name in listed.values() if Path(name).name != name}):
            raise ConfigurationError(
                f"{directory / INDEX} names '{strange[0]}', which isn't a file of the checkpoint's "
                "own directory. Download the checkpoint again."
            )
    elif (directory / SINGLE).is_file():
        try:
            with safe_open(directory / SINGLE, framework="pt") as file:
                listed = dict.fromkeys(file.keys(), SINGLE)
        except SafetensorError as error:
            raise ConfigurationError(
                f"{directory / SINGLE} can't be read: {error}. Download the checkpoint again."
            ) from None
    else:
        raise ConfigurationError(
            f"{directory} has no {SINGLE} and no {INDEX}. Checkpoints are read as safetensors "
            "alone; `save_pretrained` of transformers writes them."
        )
    if missing := sorted({name for name in listed.values() if not (directory / name).is_file()}):
        raise ConfigurationError(
            f"{directory} lacks {', '.join(missing)}, which {INDEX} names. Download it again."
        )
    return {family.tensor(name): (directory / file, name) for name, file in listed.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path.parent} has no {path.name}, so it is no Hugging Face checkpoint."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} can't be read: {error}.") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path} holds no JSON object.")
    return found

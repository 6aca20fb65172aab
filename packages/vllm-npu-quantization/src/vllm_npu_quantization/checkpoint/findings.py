"""Problems of a checkpoint's layers: each line names the layer, what is wrong, and the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from vllm_npu_quantization.checkpoint.files import Entry, Layer, directory_of, is_whole, layers
from vllm_npu_runtime.errors import ConfigurationError

FLOATS = ("F16", "BF16", "F32")
FETCH = "Fetch the checkpoint again, or quantize it anew."

LayerCheck = Callable[[Layer], Iterator[str]]


def check_layers(
    method: str, model: str, revision: str | None, marker: tuple[str, ...], check: LayerCheck
) -> bool:
    """Run a check on every quantized layer of a checkpoint, if it lies on disk.

    Args:
        method: for the message, as in "GPTQ".
        model: a directory, or a name on the Hugging Face Hub.
        revision: of the latter.
        marker: suffixes; a layer is quantized if it has a tensor of one.
        check: gives a line for each problem of a layer.

    Returns:
        Whether it does.

    Raises:
        ConfigurationError: all problems at once.
    """
    directory = directory_of(model, revision)
    if directory is None or not is_whole(directory):
        return False
    found, problems = layers(directory)
    quantized = {
        name: layer for name, layer in found.items() if not layer.keys().isdisjoint(marker)
    }
    if not problems and not quantized:
        problems.append(
            f"'{directory}' holds no tensor '….{marker[0]}', though its config says that it is "
            f"quantized. {FETCH}"
        )
    for name, layer in sorted(quantized.items()):
        problems += [f"layer '{name}': {problem}" for problem in check(layer)]
    if problems:
        raise ConfigurationError.several([f"{method} checkpoint, {each}" for each in problems])
    return True


def expect(
    layer: Layer, suffix: str, dtypes: tuple[str, ...], shape: tuple[int, ...]
) -> Iterator[str]:
    """A line if a tensor is missing, or of another dtype or shape."""
    entry = layer.get(suffix)
    if entry is None:
        yield f"'{suffix}' is missing. {FETCH}"
    elif entry.dtype not in dtypes:
        yield f"'{suffix}' is {entry.dtype}; it must be {' or '.join(dtypes)}. {FETCH}"
    elif entry.shape != shape:
        yield (
            f"'{suffix}' is {list(entry.shape)}; by the config and the weights it must be "
            f"{list(shape)}. Take the config that came with these weights."
        )


def expect_dtype(layer: Layer, suffix: str, dtype: str, rank: int = 2) -> str | None:
    """What is wrong with a tensor whose shape says how large the layer is."""
    entry = layer[suffix]
    if entry.dtype != dtype:
        return f"'{suffix}' is {entry.dtype}; it must be {dtype}. {FETCH}"
    if len(entry.shape) != rank:
        return f"'{suffix}' has {len(entry.shape)} dimensions; it must have {rank}. {FETCH}"
    return None


def divides(size: int, inputs: int) -> Iterator[str]:
    """A line if groups don't fill the inputs."""
    if size != -1 and inputs % size:
        yield (
            f"{inputs} inputs are no multiple of the group size {size}. Quantize it with a group "
            "size that divides them, or leave the layer unquantized."
        )


def groups(size: int, inputs: int) -> int:
    """Scales of an output."""
    return 1 if size == -1 else inputs // size


def finite(entry: Entry | None, suffix: str) -> Iterator[str]:
    """A line if scales are no numbers."""
    if entry is not None and entry.dtype in FLOATS:
        values = entry.load()
        if not bool(torch.isfinite(values).all()):
            yield f"'{suffix}' holds NaN or infinity. {FETCH}"

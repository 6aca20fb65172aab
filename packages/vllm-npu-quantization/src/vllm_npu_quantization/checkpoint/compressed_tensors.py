"""What compressed-tensors' layers must hold.

Which scheme a layer has is decided by its name or class when the model is built; here the tensors
that it has tell the format, and its config group must be among those of that format.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from compressed_tensors.utils import match_name

from vllm_npu_quantization.checkpoint.files import Layer
from vllm_npu_quantization.checkpoint.findings import (
    FETCH,
    FLOATS,
    check_layers,
    divides,
    expect,
    expect_dtype,
    finite,
    groups,
)


def check_compressed_tensors(config: Any, model: str, revision: str | None) -> bool:
    """Check a checkpoint against its config, if it lies on disk.

    Returns:
        Whether it does.

    Raises:
        ConfigurationError: all problems at once.
    """
    marker = ("weight_packed", "weight_scale")
    return check_layers("compressed-tensors", model, revision, marker, partial(_layer, config))


def _weights(config: Any, name: str) -> Any:
    """A layer's quantization arguments: by its name, else by the class of linear layers."""
    schemes = config.target_scheme_map
    for target, scheme in schemes.items():
        if match_name(name, target):
            return scheme["weights"]
    return schemes["Linear"]["weights"] if "Linear" in schemes else None


def _layer(config: Any, layer: Layer) -> Iterator[str]:
    name = next(iter(layer.values())).name.rpartition(".")[0]
    weights = _weights(config, name)
    if weights is None:
        yield f"it is quantized, but no config group targets it. {FETCH}"
        return
    packed = "weight_packed" in layer
    suffix = "weight_packed" if packed else "weight"
    if suffix not in layer:
        yield f"'weight_packed' or 'weight' is missing. {FETCH}"
        return
    if problem := expect_dtype(layer, suffix, "I32" if packed else "I8"):
        yield problem
        return
    outputs, columns = layer[suffix].shape
    inputs = columns * 32 // weights.num_bits if packed else columns
    size = weights.group_size if weights.strategy == "group" else -1
    wrong = list(divides(size, inputs))
    if not wrong:
        count = groups(size, inputs)
        wrong += expect(layer, "weight_scale", FLOATS, (outputs, count))
        if packed and not weights.symmetric:
            words = -(-outputs * weights.num_bits // 32)
            wrong += expect(layer, "weight_zero_point", ("I32",), (words, count))
        if packed and "weight_shape" in layer:
            shape = layer["weight_shape"].load().flatten().tolist()
            if shape != [outputs, inputs]:
                wrong.append(
                    f"'weight_shape' says {shape}, but 'weight_packed' holds "
                    f"{[outputs, inputs]} weights of {weights.num_bits} bits. Take the config that "
                    "came with these weights."
                )
    if not wrong:
        wrong += finite(layer["weight_scale"], "weight_scale")
    yield from wrong

"""One program compiled twice: for runs of few tokens, and for runs of more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import openvino as ov
import torch

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.executable import OpenVINOExecutable
from vllm_npu_runtime.openvino.functional import KEYS, VALUES
from vllm_npu_runtime.openvino.packed_products import VaryingInput
from vllm_npu_runtime.program import Program

FEW_TOKENS = 16
"""Up to here a product's time is that of reading its weights, and activations of eight bits make
it shorter: by 40% at 1 and at 8 rows. At 32 rows nothing is left of that, and at 128 the matrix
units of bfloat16 arithmetic are faster by as much."""


class TokenDispatch:
    """Two compiled models of one program; the number of tokens tells which one runs.

    Both read and write the same tensors, KV included. The weights' memory is shared, but each
    compiled model holds them in a layout of its own besides.

    Args:
        program: what both were converted from.
        tokens: the input whose extent is the number of tokens.
        few: runs of at most `FEW_TOKENS` tokens.
        many: the others.

    Raises:
        ConfigurationError: the two keep KV in different ways.
    """

    host_operators: tuple[str, ...] = ()

    def __init__(
        self,
        program: Program,
        tokens: VaryingInput,
        few: OpenVINOExecutable,
        many: OpenVINOExecutable,
    ) -> None:
        self.program = program
        self.few = few
        self.many = many
        self._tokens = tokens
        self._chosen = many
        _check_caches(few.compiled, many.compiled)

    @property
    def memory(self) -> int:
        """Bytes that the outputs of both take."""
        return self.few.memory + self.many.memory

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `Executable.bind`. New weights are compiled in twice, each before it is needed."""
        self.few.bind(tensors)
        self.many.bind(tensors)
        if (given := tensors.get(self._tokens.name)) is not None:
            is_few = given.shape[self._tokens.axis] <= FEW_TOKENS
            self._chosen = self.few if is_few else self.many

    def run(self) -> Sequence[torch.Tensor]:
        """See `Executable.run`."""
        return self._chosen.run()

    def close(self) -> None:
        """See `Executable.close`."""
        self.few.close()
        self.many.close()


def _check_caches(few: ov.CompiledModel | None, many: ov.CompiledModel | None) -> None:
    """Refuse compiled models that would read each other's KV wrongly."""
    assert few is not None and many is not None
    left, right = _caches(few), _caches(many)
    if left != right:
        name = next(name for name in left if left[name] != right.get(name))
        raise ConfigurationError(
            f"Option 'dynamic_quantization' of driver 'openvino': OpenVINO keeps '{name}' as "
            f"{left[name]} for few tokens and as {right.get(name)} for more, so they can't share "
            "KV. Choose another kv_cache_dtype, or leave the option out."
        )


def _caches(compiled: ov.CompiledModel) -> dict[str, str]:
    """Element type and shape of every cache, by the port's name."""
    ports = {port.get_node().get_friendly_name(): port for port in compiled.inputs}
    return {
        name: f"{port.get_element_type().get_type_name()} {port.get_partial_shape()}"
        for name, port in ports.items()
        if name.startswith((KEYS, VALUES))
    }

"""The paged cache's memory: every slot has a run of blocks of its own in every layer."""

from __future__ import annotations

import numpy as np
import openvino as ov
import torch

from vllm_npu_runtime.openvino.attention import BLOCK_SIZE
from vllm_npu_runtime.openvino.kv_cache import block_bytes
from vllm_npu_runtime.openvino.sessions.graphs import KEY_CACHE, VALUE_CACHE
from vllm_npu_runtime.openvino.tensors import raw


class SlotBlocks:
    """Keys and values of all layers and slots, in the layout that the compiled model has.

    Args:
        compiled: a paged decoder.
        request: of it; the caches are bound to it for good.
        slots: how many.
        max_length: tokens of each.

    Attributes:
        tables: int32 `[slots, blocks of a slot]`, the blocks of each.
        slot_bytes: of one slot, keys and values of all layers.
        layout: dtype and shape of a block of keys and of values, in a few words.
        quantized: keys and values are integers with scales beside them.
    """

    def __init__(
        self, compiled: ov.CompiledModel, request: ov.InferRequest, slots: int, max_length: int
    ) -> None:
        self.per_slot = -(-max_length // BLOCK_SIZE)
        count = slots * self.per_slot
        self.tables = np.arange(count, dtype=np.int32).reshape(slots, self.per_slot)
        ports = {port.get_any_name(): port for port in compiled.inputs}
        keys, values = (
            sorted((n for n in ports if n.startswith(kind)), key=lambda n: int(n.split(".")[1]))
            for kind in (KEY_CACHE, VALUE_CACHE)
        )
        first = [ports[keys[0]], ports[values[0]]]
        sizes = [block_bytes(port) for port in first]
        self.slot_bytes = self.per_slot * len(keys) * sum(sizes)
        self.layout = ", ".join(
            f"{port.get_element_type().get_type_name()} {port.get_partial_shape()}"
            for port in first
        )
        self.quantized = not first[0].get_element_type().is_real()
        # Pages are taken from the system as slots fill.
        self._parts = [
            torch.zeros(len(names), count, size, dtype=torch.uint8)
            for names, size in zip((keys, values), sizes, strict=True)
        ]
        self._bound = []
        for names, part in zip((keys, values), self._parts, strict=True):
            for layer, name in enumerate(names):
                port = ports[name]
                extents = [each.get_length() for each in list(port.get_partial_shape())[1:]]
                tensor = raw(part[layer], [count, *extents], port.get_element_type())
                request.set_tensor(port, tensor)
                self._bound.append(tensor)

    def read(self, slot: int, tokens: int) -> tuple[torch.Tensor, ...]:
        """Copies of the blocks with a slot's first tokens, uint8 `[layers, blocks, bytes]`."""
        return tuple(part[:, self._run(slot, tokens)].clone() for part in self._parts)

    def write(self, slot: int, tokens: int, parts: tuple[torch.Tensor, ...]) -> None:
        """Put copies of blocks into a slot, as many as hold `tokens`."""
        blocks = -(-tokens // BLOCK_SIZE)
        for part, given in zip(self._parts, parts, strict=True):
            part[:, self._run(slot, tokens)] = given[:, :blocks]

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the blocks with a slot's first tokens to another."""
        for part in self._parts:
            part[:, self._run(target, tokens)] = part[:, self._run(source, tokens)]

    def _run(self, slot: int, tokens: int) -> slice:
        begin = slot * self.per_slot
        return slice(begin, begin + -(-tokens // BLOCK_SIZE))

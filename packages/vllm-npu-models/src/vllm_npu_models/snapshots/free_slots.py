"""vLLM's free blocks as slots, and which of them it hands out next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm_npu_models.slots import block_of_slot, slot_of_block

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool


class FreeSlots:
    """The block pool's queue of free blocks, of which vLLM takes the first.

    Left alone, it is the slot that was freed last: the one whose contents are most worth keeping.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool

    def __iter__(self) -> Iterator[int]:
        for block in self._pool.free_block_queue.get_all_free_blocks():
            yield slot_of_block(block.block_id)

    def prefer(self, slot: int) -> None:
        """Have vLLM hand out a free slot next."""
        queue = self._pool.free_block_queue
        block = self._pool.blocks[block_of_slot(slot)]
        queue.remove(block)
        queue.prepend_n([block])

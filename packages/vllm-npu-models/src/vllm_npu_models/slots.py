"""Slots of a session, handed out by vLLM's own block allocator.

The model has one layer with state. Its specification is a state-space model's: one block per
request, however long, so that a block is a slot. vLLM keeps block 0 for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import AttentionBackend, AttentionMetadataBuilder
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum
from vllm.v1.kv_cache_interface import MambaSpec

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.attention.backend import CommonAttentionMetadata

    from vllm_npu_runtime.sessions.base import Session

# vLLM reads the layer's index out of its name, which must hold exactly one number.
LAYER = "layers.0.slot_state"


def slot_of_block(block_id: int) -> int:
    """The slot behind a block of vLLM's; block 0 is never a request's."""
    return block_id - 1


def block_of_slot(slot: int) -> int:
    """The block that vLLM knows a slot by."""
    return slot + 1


def blocks_for(slots: int) -> int:
    """How many blocks vLLM must have to hand out so many slots."""
    return slots + 1


@dataclass(frozen=True)
class SlotMetadata:
    """Which tokens of a step belong to which slot.

    Attributes:
        slots: of each request.
        starts: index of each request's first token in the step, and the number of all.
        pasts: tokens of each request before this step.
    """

    slots: list[int]
    starts: list[int]
    pasts: list[int]


class SlotMetadataBuilder(AttentionMetadataBuilder[SlotMetadata]):
    """Reads slots and pasts from vLLM's block table."""

    def __init__(
        self, kv_cache_spec: Any, layer_names: list[str], vllm_config: VllmConfig, device: Any
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> SlotMetadata:
        """The metadata of one step."""
        common = common_attn_metadata
        count = common.num_reqs
        starts = common.query_start_loc_cpu[: count + 1].tolist()
        lengths = common.seq_lens[:count].tolist()
        return SlotMetadata(
            slots=[slot_of_block(block) for block in common.block_table_tensor[:count, 0].tolist()],
            starts=starts,
            pasts=[
                length - (end - start)
                for length, start, end in zip(lengths, starts, starts[1:], strict=False)
            ],
        )


class SlotBackend(AttentionBackend):
    """Nothing attends here: the backend is where vLLM asks for metadata."""

    @staticmethod
    def get_name() -> str:
        """As in vLLM's logs."""
        return "NPU_SLOTS"

    @staticmethod
    def get_impl_cls() -> Any:
        """There is none: the session attends."""
        raise NotImplementedError("A session's slots have no attention of vLLM's.")

    @staticmethod
    def get_builder_cls() -> type[SlotMetadataBuilder]:
        """See there."""
        return SlotMetadataBuilder

    @classmethod
    def is_ssm(cls) -> bool:
        """As far as vLLM is concerned: one state per request."""
        return True


class SlotState(nn.Module, AttentionLayerBase):
    """The layer whose state is a slot, and the way from vLLM's configuration to the session.

    Attributes:
        session: opened by the loader.
        failed: slots that hold nothing, as a step failed there. The connector puts in those of
            earlier steps and reports those of this one.
    """

    supports_dcp: ClassVar[bool] = False

    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.session: Session | None = None
        self.failed: set[int] = set()
        self.kv_cache = torch.empty(0)
        self._length = vllm_config.model_config.max_model_len
        layers = vllm_config.compilation_config.static_forward_context
        if LAYER in layers:
            raise ValueError(f"There is a layer '{LAYER}' already: one model has one session.")
        layers[LAYER] = self

    def get_attn_backend(self) -> type[AttentionBackend]:
        """See `SlotBackend`."""
        return SlotBackend

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> MambaSpec:
        """A state of one byte, in a block that no request outgrows."""
        return MambaSpec(
            block_size=self._length,
            shapes=((1,),),
            dtypes=(torch.uint8,),
            mamba_type=MambaAttentionBackendEnum.CUSTOM,
        )


def slot_state(vllm_config: VllmConfig) -> SlotState:
    """The layer of the model that this configuration loaded, in the worker's process."""
    layer: SlotState = vllm_config.compilation_config.static_forward_context[LAYER]
    return layer


def session_of(vllm_config: VllmConfig) -> Session:
    """The session of the model that this configuration loaded, in the worker's process."""
    session = slot_state(vllm_config).session
    if session is None:
        raise RuntimeError("The session isn't open yet.")
    return session

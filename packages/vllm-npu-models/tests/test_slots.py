"""Slots from vLLM's block table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_npu_models.slots import (
    LAYER,
    SlotBackend,
    SlotMetadataBuilder,
    SlotState,
    block_of_slot,
    blocks_for,
    session_of,
    slot_of_block,
    slot_state,
)


@pytest.fixture
def config() -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=512),
        compilation_config=SimpleNamespace(static_forward_context={}),
    )


def test_block_zero_is_vllms_and_no_slot() -> None:
    assert [slot_of_block(block) for block in range(1, blocks_for(3))] == [0, 1, 2]
    assert all(slot_of_block(block_of_slot(slot)) == slot for slot in range(3))


def test_metadata_says_slot_and_past_of_each_request(config: Any) -> None:
    state = SlotState(config)
    builder = SlotMetadataBuilder(state.get_kv_cache_spec(config), [LAYER], config, "cpu")
    common: Any = SimpleNamespace(
        num_reqs=2,
        query_start_loc_cpu=torch.tensor([0, 3, 4, 4]),
        seq_lens=torch.tensor([3, 11, 0]),
        block_table_tensor=torch.tensor([[4, 0], [1, 0], [0, 0]]),
    )
    made = builder.build(0, common)
    assert (made.slots, made.starts, made.pasts) == ([3, 0], [0, 3, 4], [0, 10])


def test_a_block_holds_a_request_of_any_length(config: Any) -> None:
    spec = SlotState(config).get_kv_cache_spec(config)
    assert spec.block_size == 512
    assert (
        spec.max_num_blocks_per_req(
            SimpleNamespace(cache_config=SimpleNamespace(mamba_cache_mode="none")), 512
        )
        == 1
    )


def test_the_backend_is_one_of_state(config: Any) -> None:
    assert SlotBackend.is_ssm()
    assert SlotState(config).get_attn_backend() is SlotBackend


def test_the_session_is_found_by_the_configuration(config: Any) -> None:
    layer = SlotState(config)
    with pytest.raises(RuntimeError, match="isn't open"):
        session_of(config)
    layer.session = session = object()  # type: ignore[assignment]
    assert session_of(config) is session and slot_state(config) is layer


def test_a_second_session_in_one_model_is_refused(config: Any) -> None:
    SlotState(config)
    with pytest.raises(ValueError, match="one model has one session"):
        SlotState(config)

"""The kernels around a draft model, against loops over requests and tokens."""

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_npu_platform.kernels.draft_inputs import make_room_for_drafts
from vllm_npu_platform.kernels.drafting import (
    advance_one_token,
    choose_next_token,
    find_last_accepted,
)

PAD = -1
VOCAB = 50
UNTOUCHED = -7


def int32(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("in_place", [False, True])
@settings(deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=9),
    block_size=st.sampled_from([1, 5, 16]),
    max_model_len=st.sampled_from([1, 30, 33]),
    columns=st.integers(1, 40),
    padding=st.integers(0, 3),
)
def test_advance_one_token(
    in_place: bool,
    requests: list[tuple[int, int]],
    block_size: int,
    max_model_len: int,
    columns: int,
    padding: int,
) -> None:
    count = len(requests)
    positions = torch.tensor([position for position, _ in requests])
    # Buffers are longer than the batch.
    seq_lens = int32([length for _, length in requests] + [UNTOUCHED])
    table = torch.randint(0, 2**28, (count + 1, columns), dtype=torch.int32)
    clamped = positions if in_place else torch.empty_like(positions)
    mapping = torch.full((count + padding,), UNTOUCHED)

    want: list[tuple[int, int, int]] = []
    for request, (position, length) in enumerate(requests):
        if position + 1 >= max_model_len:
            want.append((0, PAD, 1))
            continue
        column = min((position + 1) // block_size, columns - 1)
        slot = int(table[request, column]) * block_size + (position + 1) % block_size
        want.append((position + 1, slot, min(length + 1, max_model_len)))

    advance_one_token(
        positions_ptr=positions,
        block_table_ptr=table,
        block_table_stride=table.stride(0),
        seq_lens_ptr=seq_lens,
        out_clamped_positions_ptr=clamped,
        out_slot_mapping_ptr=mapping,
        block_size=block_size,
        max_model_len=max_model_len,
        n_blocks_per_req=columns,
        PAD_ID=PAD,
        batch_size=count,
    )
    assert clamped.tolist() == [position for position, _, _ in want]
    assert mapping.tolist() == [slot for _, slot, _ in want] + [PAD] * padding
    assert seq_lens.tolist() == [length for _, _, length in want] + [UNTOUCHED]


@settings(deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(1, 9)), min_size=1, max_size=9
    )
)
def test_find_last_accepted(requests: list[tuple[int, int, int]]) -> None:
    """Each request: draft tokens, sampled tokens that count, tokens that the target ran on."""
    begins = [0, *accumulate(tokens for _, _, tokens in requests)]
    indices, rejected = int32([UNTOUCHED] * len(requests)), int32([UNTOUCHED] * len(requests))
    find_last_accepted(
        cu_num_draft_tokens_ptr=int32(list(accumulate(drafts for drafts, _, _ in requests))),
        valid_sampled_tokens_count_ptr=int32([valid for _, valid, _ in requests]),
        query_start_loc_gpu_ptr=int32([*begins, UNTOUCHED]),
        token_indices_to_sample_ptr=indices,
        num_rejected_tokens_gpu_ptr=rejected,
        num_reqs=len(requests),
    )
    want = [drafts + 1 - valid if drafts else 0 for drafts, valid, _ in requests]
    assert rejected.tolist() == want
    assert indices.tolist() == [end - 1 - lost for end, lost in zip(begins[1:], want, strict=True)]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@settings(deadline=None)
@given(data=st.data(), requests=st.integers(1, 8), columns=st.integers(1, 6))
def test_choose_next_token(
    dtype: torch.dtype, data: st.DataObject, requests: int, columns: int
) -> None:
    token = st.one_of(st.just(-1), st.integers(0, VOCAB + 2))
    row = st.lists(token, min_size=columns, max_size=columns)
    sampled = data.draw(st.lists(row, min_size=requests, max_size=requests))
    discarded = data.draw(st.lists(st.booleans(), min_size=requests, max_size=requests))
    backup = list(range(100, 100 + requests))

    want_tokens, want_counts = [], []
    for request in range(requests):
        valid = [token for token in sampled[request] if token != -1 and token < VOCAB]
        if discarded[request]:
            valid = []
        want_tokens.append(valid[-1] if valid else backup[request])
        want_counts.append(len(valid))

    next_tokens, counts = int32([UNTOUCHED] * requests), int32([UNTOUCHED] * requests)
    # Rows lie further apart than they are long, and the runner's buffers are longer than the
    # batch.
    wide = torch.full((requests, columns + 2), 3, dtype=dtype)
    tokens = wide[:, :columns]
    tokens.copy_(torch.tensor(sampled))
    choose_next_token(
        sampled_token_ids_ptr=tokens,
        discard_request_mask_ptr=torch.tensor([*discarded, True, False]),
        backup_next_token_ids_ptr=int32([*backup, 1, 2]),
        next_token_ids_ptr=next_tokens,
        valid_sampled_tokens_count_ptr=counts,
        vocab_size=VOCAB,
        num_sampled_tokens_per_req=columns,
        num_reqs=requests,
        stride_sampled_token_ids=tokens.stride(0),
        BLOCK_SIZE_TOKENS=8,
    )
    assert next_tokens.tolist() == want_tokens
    assert counts.tolist() == want_counts


@pytest.mark.parametrize("shift", [False, True])
@settings(deadline=None)
@given(
    # Tokens that the target ran on, and how many of them it rejected. All of them, even the one
    # before the draft tokens, is what comes out for a discarded request that had drafts.
    requests=st.lists(
        st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
        min_size=1,
        max_size=7,
    ),
    slots=st.integers(1, 4),
)
def test_make_room_for_drafts(shift: bool, requests: list[tuple[int, int]], slots: int) -> None:
    begins = [0, *accumulate(tokens for tokens, _ in requests)]
    total = begins[-1]
    ends = [end - 1 - lost for end, (_, lost) in zip(begins[1:], requests, strict=True)]
    room = total + len(requests) * (slots - shift)
    token_ids = torch.randint(0, VOCAB, (total,), dtype=torch.int32)
    positions = torch.randint(0, 1000, (total,))
    next_ids = torch.randint(VOCAB, 2 * VOCAB, (len(requests),), dtype=torch.int32)
    padding_id, drafted_id = 1000, 2000
    length = room + 3

    ids, places = [UNTOUCHED] * length, [UNTOUCHED] * length
    rejected, masked = [False] * length, [False] * length
    new, moved = [UNTOUCHED] * (len(requests) * slots), [UNTOUCHED] * total
    out = 0
    for request, (begin, next_begin) in enumerate(pairwise(begins)):
        row = token_ids[begin + shift : ends[request] + 1].tolist()
        fresh = [int(next_ids[request])] + [drafted_id] * (slots - 1)
        # A shifted request of which nothing is left has no place even for its next token.
        skipped = max(0, begin + shift - (ends[request] + 1))
        for index, token in enumerate(range(begin, next_begin)):
            if shift:
                moved[token] = out + index
        width = next_begin - begin + slots - shift
        for index in range(width):
            place = out + index
            places[place] = int(positions[begin]) + index
            if index < len(row):
                ids[place] = row[index]
            elif (which := skipped + index - len(row)) < slots:
                ids[place], masked[place] = fresh[which], which > 0
                new[request * slots + which] = place
            else:
                ids[place], places[place], rejected[place] = padding_id, 0, True
        out += width

    got_ids, got_places = int32([UNTOUCHED] * length), torch.full((length,), UNTOUCHED)
    got_rejected, got_masked = torch.zeros(2, length, dtype=torch.bool)
    got_new, got_moved = int32([UNTOUCHED] * len(new)), int32([UNTOUCHED] * total)
    make_room_for_drafts(
        target_token_ids_ptr=token_ids,
        target_positions_ptr=positions,
        next_token_ids_ptr=next_ids,
        out_input_ids_ptr=got_ids,
        out_positions_ptr=got_places,
        out_is_rejected_token_mask_ptr=got_rejected,
        out_is_masked_token_mask_ptr=got_masked,
        out_new_token_indices_ptr=got_new,
        out_hidden_state_mapping_ptr=got_moved,
        query_start_loc_ptr=int32(begins),
        query_end_loc_ptr=int32(ends),
        padding_token_id=padding_id,
        parallel_drafting_token_id=drafted_id,
        total_input_tokens=total,
        num_padding_slots_per_request=slots,
        shift_input_ids=shift,
        BLOCK_SIZE_TOKENS=4,
    )
    assert got_ids.tolist() == ids
    assert got_places.tolist() == places
    assert got_rejected.tolist() == rejected
    assert got_masked.tolist() == masked
    assert got_new.tolist() == new
    assert got_moved.tolist() == moved

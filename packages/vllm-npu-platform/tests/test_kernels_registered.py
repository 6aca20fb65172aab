"""Our kernels in vLLM's hands: its functions that launch them, on host tensors."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_npu_platform.kernels import OVERRIDES, register

HOST = torch.device("cpu")
VOCAB = 16
PLACEHOLDER = -1


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """vLLM with our kernels, on our platform if it is active, else on a bare one."""
    import vllm.platforms as platforms
    from vllm.platforms.interface import Platform, PlatformEnum

    class BarePlatform(Platform):
        _enum = PlatformEnum.OOT
        device_name = device_type = "cpu"
        dispatch_key = "CPU"
        simple_compile_backend = "eager"

        @classmethod
        def is_pin_memory_available(cls) -> bool:
            return False

    found = platforms.current_platform
    if found.device_type != "cpu":
        platforms.current_platform = BarePlatform()
    register()
    yield
    platforms.current_platform = found


def kernel_and_ours(name: str) -> tuple[Any, Any]:
    from vllm.triton_utils import dispatcher

    module, function = OVERRIDES[name].split(":")
    return dispatcher._registry[name][0], getattr(import_module(module), function)


def test_importing_the_table_imports_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, vllm_npu_platform.kernels; assert not {'torch', 'vllm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", OVERRIDES)
def test_parameters_are_those_of_the_kernel(name: str) -> None:
    """vLLM passes arguments by name only to a function of the same parameters."""
    from vllm.triton_utils import dispatcher

    kernel, ours = kernel_and_ours(name)
    assert dispatcher._kernel_arg_names(ours) == dispatcher._kernel_arg_names(kernel)


def test_a_second_registration_changes_nothing() -> None:
    from vllm.v1.sample import rejection_sampler

    before = rejection_sampler.expand_kernel
    register()
    assert rejection_sampler.expand_kernel is before


def test_block_table() -> None:
    from vllm.v1.worker.block_table import BlockTable

    table = BlockTable(
        block_size=4,
        max_num_reqs=3,
        max_num_blocks_per_req=5,
        max_num_batched_tokens=10,
        pin_memory=False,
        device=HOST,
        cp_kv_cache_interleave_size=1,
    )
    table.add_row([7, 3], 0)
    table.add_row([9, 1, 4], 1)
    table.commit_block_table(2)
    begins = torch.tensor([0, 3, 4], dtype=torch.int32)
    table.compute_slot_mapping(2, begins, torch.tensor([3, 4, 5, 10]))
    assert table.slot_mapping.gpu.tolist() == [31, 12, 13, 18] + [-1] * 6


def test_step_of_a_draft_model() -> None:
    from vllm.v1.spec_decode.utils import eagle_step_update_slot_mapping_and_metadata

    positions = torch.tensor([3, 31, 0])
    seq_lens = torch.tensor([4, 32, 1], dtype=torch.int32)
    table = torch.arange(24, dtype=torch.int32).reshape(3, 8)
    mapping = torch.zeros(4, dtype=torch.int64)
    eagle_step_update_slot_mapping_and_metadata(
        positions_1d=positions,
        block_table_tensor=table,
        seq_lens=seq_lens,
        block_size=4,
        max_model_len=32,
        out_clamped_positions=positions,
        out_slot_mapping=mapping,
        input_batch_size=4,
    )
    assert positions.tolist() == [4, 0, 1]
    assert mapping.tolist() == [4, -1, 65, -1]
    assert seq_lens.tolist() == [5, 1, 2]


def test_next_tokens_and_rejected_tokens() -> None:
    from vllm.v1.spec_decode.utils import (
        _eagle_prepare_inputs_padded,
        _eagle_prepare_next_token_padded,
    )

    sampled = torch.tensor([[5, 6, -1], [7, -1, -1], [3, 4, 2]], dtype=torch.int32)
    next_tokens, counts, indices, rejected = torch.zeros(4, 3, dtype=torch.int32)
    _eagle_prepare_next_token_padded(
        sampled,
        torch.tensor([False, False, True]),
        torch.tensor([11, 12, 13], dtype=torch.int32),
        next_tokens,
        counts,
        VOCAB,
        3,
        3,
        sampled.stride(0),
        BLOCK_SIZE_TOKENS=4,
    )
    assert next_tokens.tolist() == [6, 7, 13]
    assert counts.tolist() == [2, 1, 0]
    _eagle_prepare_inputs_padded(
        torch.tensor([2, 4, 4], dtype=torch.int32),
        counts,
        torch.tensor([0, 3, 6, 9], dtype=torch.int32),
        indices,
        rejected,
        3,
    )
    assert rejected.tolist() == [1, 2, 0]
    assert indices.tolist() == [1, 3, 8]


def test_inputs_of_a_draft_model() -> None:
    from vllm.v1.spec_decode.utils import _copy_and_expand_eagle_inputs

    ids, new, moved = (torch.zeros(size, dtype=torch.int32) for size in (7, 2, 5))
    positions = torch.zeros(7, dtype=torch.int64)
    rejected, masked = torch.zeros(2, 7, dtype=torch.bool)
    _copy_and_expand_eagle_inputs(
        target_token_ids_ptr=torch.tensor([1, 2, 3, 4, 5], dtype=torch.int32),
        target_positions_ptr=torch.tensor([8, 9, 10, 0, 1]),
        next_token_ids_ptr=torch.tensor([11, 12], dtype=torch.int32),
        out_input_ids_ptr=ids,
        out_positions_ptr=positions,
        out_is_rejected_token_mask_ptr=rejected,
        out_is_masked_token_mask_ptr=masked,
        out_new_token_indices_ptr=new,
        out_hidden_state_mapping_ptr=moved,
        query_start_loc_ptr=torch.tensor([0, 3, 5], dtype=torch.int32),
        query_end_loc_ptr=torch.tensor([1, 4], dtype=torch.int32),
        padding_token_id=0,
        parallel_drafting_token_id=-1,
        total_input_tokens=5,
        num_padding_slots_per_request=1,
        shift_input_ids=False,
        BLOCK_SIZE_TOKENS=4,
        batch_size=2,
        num_blocks=1,
    )
    assert ids.tolist() == [1, 2, 11, 0, 4, 5, 12]
    assert positions.tolist() == [8, 9, 10, 0, 0, 1, 2]
    assert new.tolist() == [2, 6]


def sampling(temperatures: list[float], **changed: Any) -> Any:
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata

    greedy = [temperature == 0 for temperature in temperatures]
    nothing = torch.zeros(len(temperatures))
    arguments = {
        "temperature": None if all(greedy) else torch.tensor(temperatures),
        "all_greedy": all(greedy),
        "all_random": not any(greedy),
        "top_p": None,
        "top_k": None,
        "generators": {},
        "max_num_logprobs": None,
        "no_penalties": True,
        "prompt_token_ids": None,
        "frequency_penalties": nothing,
        "presence_penalties": nothing,
        "repetition_penalties": nothing + 1,
        "output_token_ids": [],
        "allowed_token_ids_mask": None,
        "bad_words_token_ids": {},
        "logitsprocs": LogitsProcessors(),
    }
    return SamplingMetadata(**(arguments | changed))


def drafts(tokens: list[list[int]]) -> Any:
    """Metadata in which each request's logits lie together, the bonus token's last."""
    from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

    metadata = SpecDecodeMetadata.make_dummy(tokens, HOST)
    ends = metadata.cu_num_sampled_tokens.tolist()
    metadata.bonus_logits_indices = torch.tensor([end - 1 for end in ends])
    metadata.target_logits_indices = torch.tensor(
        [row for row in range(ends[-1]) if row not in {end - 1 for end in ends}]
    )
    return metadata


def logits_for(tokens: list[int]) -> torch.Tensor:
    """Rows that leave nothing but the given token."""
    rows = torch.full((len(tokens), VOCAB), -1e4)
    rows[torch.arange(len(tokens)), tokens] = 1e4
    return rows


@pytest.mark.parametrize("temperatures", [[0.0] * 4, [0.7] * 4, [0.0, 0.7, 0.0, 0.7]])
@pytest.mark.parametrize("with_draft_probs", [False, True])
def test_rejection_sampler(temperatures: list[float], with_draft_probs: bool) -> None:
    """Where the target is certain, sampling at any temperature accepts what it would choose."""
    from vllm.v1.sample.rejection_sampler import RejectionSampler
    from vllm.v1.sample.sampler import Sampler

    proposed = [[1, 2, 3], [4, 5], [], [6, -1]]
    target = [1, 2, 3, 9, 4, 8, 7, 10, 6, 11, 12]
    metadata = drafts(proposed)
    draft_probs = None
    if with_draft_probs:
        draft_probs = torch.full((len(metadata.draft_token_ids), VOCAB), 1 / VOCAB)
    sampler = RejectionSampler(Sampler())
    # The filters keep the one token that the target wants; here they have to be repeated for
    # each draft token.
    filters: dict[str, Any] = {}
    if any(temperatures):
        filters = {
            "top_k": torch.tensor([3, 4, 5, 6], dtype=torch.int32),
            "top_p": torch.tensor([0.9, 0.8, 0.7, 0.6]),
        }
    output = sampler(metadata, draft_probs, logits_for(target), sampling(temperatures, **filters))
    assert output.sampled_token_ids.tolist() == [
        [1, 2, 3, 9],
        [4, 8, PLACEHOLDER, PLACEHOLDER],
        [10, PLACEHOLDER, PLACEHOLDER, PLACEHOLDER],
        [6, 11, PLACEHOLDER, PLACEHOLDER],
    ]


@pytest.mark.parametrize("fp64_noise", [False, True])
@pytest.mark.parametrize("with_draft_probs", [False, True])
def test_rejection_sampling_has_the_distribution_of_the_target(
    with_draft_probs: bool, fp64_noise: bool
) -> None:
    """Theorem 1 of arXiv:2211.17192, on 20 000 requests with a draft token each."""
    from vllm.v1.sample.rejection_sampler import rejection_sample

    torch.manual_seed(0)
    requests, vocab = 20_000, 5
    target = torch.tensor([0.05, 0.3, 0.0, 0.45, 0.2])
    # Without probabilities, a draft is a certainty: any one token.
    draft = torch.tensor([0.4, 0.1, 0.2, 0.2, 0.1])
    proposed = torch.multinomial(draft, requests, replacement=True).to(torch.int32)
    output = rejection_sample(
        proposed,
        [1] * requests,
        1,
        torch.arange(1, requests + 1, dtype=torch.int32),
        draft.repeat(requests, 1) if with_draft_probs else None,
        target.log().repeat(requests, 1),
        torch.zeros(requests, 1, dtype=torch.int64),
        sampling([1.0] * requests),
        use_fp64_gumbel=fp64_noise,
    )
    frequencies = output[:, 0].bincount(minlength=vocab) / requests
    assert frequencies[2] == 0
    # About five standard deviations of a frequency near 1/2.
    torch.testing.assert_close(frequencies, target, atol=0.018, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_synthetic_acceptance(temperature: float) -> None:
    """Half of the first drafts are accepted, and a quarter of them with the second."""
    from vllm.v1.sample.rejection_sampler import RejectionSampler
    from vllm.v1.sample.sampler import Sampler

    torch.manual_seed(0)
    requests = 1500
    config = SimpleNamespace(
        rejection_sample_method="synthetic", synthetic_acceptance_rates=[0.5, 0.25]
    )
    sampler = RejectionSampler(Sampler(), config, HOST)
    metadata = drafts([[1, 2]] * requests)
    logits = logits_for([8, 9, 10] * requests)
    output = sampler(metadata, None, logits, sampling([temperature] * requests)).sampled_token_ids
    first, second = output[:, 0] == 1, output[:, 1] == 2
    assert abs(first.float().mean() - 0.5) < 0.05
    assert abs(second.float().mean() - 0.25) < 0.05
    assert (output[second, 2] == 10).all()
    assert (output[~first, 0] == 8).all()

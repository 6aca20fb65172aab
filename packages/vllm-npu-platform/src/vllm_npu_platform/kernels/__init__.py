"""Host versions of the Triton kernels that vLLM's V1 runner launches.

vLLM lets a platform replace a kernel by name (`vllm/triton_utils/dispatcher.py`). Ours work on
tensors in host memory, through numpy views of them: at the size of one step, a numpy operation
costs a fraction of what a torch operation costs. Importing this package imports neither torch
nor vllm.

A replacement takes the parameters of the kernel it stands for, under their names and in their
order, since vLLM passes them by keyword: `…_ptr` is a tensor, capitals are compile-time
constants, and sizes that only tile the work for a GPU are ignored. vLLM doesn't pass on the
launch grid, so the number of requests is read from the shapes.
"""

from functools import cache
from importlib import import_module

OVERRIDES: dict[str, str] = {
    "vllm.v1.worker.block_table.ComputeSlotMappingKernel.kernel": (
        "vllm_npu_platform.kernels.slot_mapping:compute_slot_mapping"
    ),
    "vllm.v1.spec_decode.utils.eagle_step_slot_mapping_metadata_kernel": (
        "vllm_npu_platform.kernels.drafting:advance_one_token"
    ),
    "vllm.v1.spec_decode.utils.eagle_prepare_inputs_padded_kernel": (
        "vllm_npu_platform.kernels.drafting:find_last_accepted"
    ),
    "vllm.v1.spec_decode.utils.eagle_prepare_next_token_padded_kernel": (
        "vllm_npu_platform.kernels.drafting:choose_next_token"
    ),
    "vllm.v1.spec_decode.utils.copy_and_expand_eagle_inputs_kernel": (
        "vllm_npu_platform.kernels.draft_inputs:make_room_for_drafts"
    ),
    "vllm.v1.sample.rejection_sampler.rejection_greedy_sample_kernel": (
        "vllm_npu_platform.kernels.rejection:reject_greedy"
    ),
    "vllm.v1.sample.rejection_sampler.rejection_random_sample_kernel": (
        "vllm_npu_platform.kernels.rejection:reject_random"
    ),
    "vllm.v1.sample.rejection_sampler.expand_kernel": "vllm_npu_platform.kernels.ragged:expand",
    "vllm.v1.sample.rejection_sampler.sample_recovered_tokens_kernel": (
        "vllm_npu_platform.kernels.recovered:sample_recovered"
    ),
}
"""vLLM's kernels, and the function, as "module:function", that stands for each."""


@cache
def register() -> None:
    """Put ours in the place of vLLM's kernels. Only the first call in a process does anything.

    vLLM asks for it in every worker, before a kernel can be launched. Where several workers
    share a process, a second registration would wrap the wrappers, with a warning for each.
    """
    from vllm.triton_utils.dispatcher import register_kernels

    overrides = {}
    for kernel, ours in OVERRIDES.items():
        module, function = ours.split(":")
        overrides[kernel] = getattr(import_module(module), function)
    register_kernels(overrides)

"""A whole decoder over twenty steps, against its dense self, under each contract."""

import pytest
import torch

from vllm_npu_runtime.conformance.bench import Bench
from vllm_npu_runtime.conformance.generation import Generation, Logits
from vllm_npu_runtime.conformance.oracle import assert_close
from vllm_npu_runtime.conformance.pages import Geometry
from vllm_npu_runtime.conformance.transformer import Transformer
from vllm_npu_runtime.drivers.base import Capabilities, KVContract


def _generation(
    bench: Bench,
    geometry: Geometry,
    dtype: torch.dtype,
    capabilities: Capabilities,
    contract: KVContract,
) -> tuple[Transformer, Generation, torch.dtype]:
    torch.manual_seed(0)
    model = Transformer(geometry, dtype)
    listed = capabilities.kv_cache_dtypes
    kv_dtype = dtype if dtype in listed else listed[0]
    return model, Generation(bench, model, kv_dtype, contract), kv_dtype


def _check(
    model: Transformer, generation: Generation, logits: Logits, *dtypes: torch.dtype
) -> None:
    for tokens, rows in zip(generation.tokens, logits, strict=True):
        assert rows
        assert_close(torch.stack(rows), model.dense(tokens)[: len(rows)], *dtypes)


def test_paged(
    bench: Bench, paged: Geometry, dtype: torch.dtype, capabilities: Capabilities
) -> None:
    """Mixed batches of tokens; caches written by the program."""
    model, generation, kv_dtype = _generation(bench, paged, dtype, capabilities, KVContract.PAGED)
    _check(model, generation, generation.logits(), dtype, kv_dtype)


def test_gather(
    bench: Bench, gather: Geometry, dtype: torch.dtype, capabilities: Capabilities
) -> None:
    """Prefill chunks and decode batches; caches written by the host."""
    model, generation, kv_dtype = _generation(bench, gather, dtype, capabilities, KVContract.GATHER)
    _check(model, generation, generation.logits(), dtype, kv_dtype)


def test_contracts_agree(
    bench: Bench, geometry: Geometry, finest: torch.dtype, capabilities: Capabilities
) -> None:
    """Both contracts give the same logits for the same tokens."""
    if set(capabilities.kv_contracts) != set(KVContract):
        pytest.skip(f"the device declares only {', '.join(capabilities.kv_contracts)}")
    _, paged, kv_dtype = _generation(bench, geometry, finest, capabilities, KVContract.PAGED)
    _, gather, _ = _generation(bench, geometry, finest, capabilities, KVContract.GATHER)
    for left, right in zip(paged.logits(), gather.logits(), strict=True):
        count = min(len(left), len(right))
        assert_close(torch.stack(left[:count]), torch.stack(right[:count]), finest, kv_dtype)

"""Light stand-ins for what an engine would bring: a device on paper, a configuration, a step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

# Before vllm is imported anywhere: it reads these once.
os.environ.setdefault("VLLM_NPU_DEVICE", "reference")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import hypothesis
import numpy as np
import torch

from vllm_npu_platform.graph.plan import Batch
from vllm_npu_runtime.device import Device
from vllm_npu_runtime.drivers.base import Capabilities, CompileOptions
from vllm_npu_runtime.drivers.reference import ReferenceDriver, ReferenceExecutable
from vllm_npu_runtime.program import Program
from vllm_npu_runtime.settings import Settings

if TYPE_CHECKING:
    from vllm_npu_platform.target import Target

# A loaded machine is no bug of the code under test.
hypothesis.settings.register_profile("npu", deadline=None)
hypothesis.settings.load_profile("npu")


class PaperExecutable(ReferenceExecutable):
    """Gives its outputs in the same memory at every run, as devices do."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self._outputs: Sequence[torch.Tensor] = ()

    def run(self) -> Sequence[torch.Tensor]:
        outputs = super().run()
        with torch.inference_mode():
            self._outputs = self._outputs or [output.clone() for output in outputs]
            for kept, output in zip(self._outputs, outputs, strict=True):
                kept.copy_(output)
        return self._outputs


class PaperDriver(ReferenceDriver):
    """The reference driver with other capabilities."""

    name = "paper"

    def __init__(self, **limits: Any) -> None:
        self._limits = limits

    def capabilities(self, device: str) -> Capabilities:
        return replace(super().capabilities(device), **self._limits)

    def compile(self, program: Program, device: str, options: CompileOptions) -> PaperExecutable:
        return PaperExecutable(program)


@pytest.fixture
def make_target() -> Callable[..., Target]:
    """A target by settings, and by capabilities where they differ from the reference's."""
    from vllm_npu_platform.target import Target

    def make(limits: dict[str, Any] | None = None, **settings: Any) -> Target:
        driver: Any = PaperDriver(**(limits or {}))
        return Target(Settings(**settings), Device(driver, driver.devices()[0]))

    return make


@pytest.fixture
def make_config() -> Callable[..., Any]:
    """What buckets depend on in vLLM's configuration."""

    def make(
        tokens: int = 64,
        requests: int = 8,
        runner: str = "generate",
        attention: str = "decoder",
        chunked: bool = True,
        max_model_len: int = 64,
        soft_cap: float | None = None,
    ) -> Any:
        return SimpleNamespace(
            load_config=SimpleNamespace(load_format="auto"),
            scheduler_config=SimpleNamespace(
                max_num_batched_tokens=tokens,
                max_num_seqs=requests,
                enable_chunked_prefill=chunked,
            ),
            model_config=SimpleNamespace(
                runner_type=runner,
                attn_type=attention,
                max_model_len=max_model_len,
                hf_text_config=SimpleNamespace(attn_logit_softcapping=soft_cap),
            ),
        )

    return make


@pytest.fixture
def config(make_config: Callable[..., Any]) -> Any:
    """A float32 model without a wish as to KV."""
    config = make_config()
    config.model_config.dtype = torch.float32
    config.cache_config = SimpleNamespace(cache_dtype="auto")
    return config


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """A step of requests, each given as (tokens in the cache before, new tokens)."""

    def make(
        requests: Sequence[tuple[int, int]],
        block_size: int = 4,
        tables: Sequence[Sequence[int]] | None = None,
    ) -> Batch:
        """Without tables, every request has blocks of its own, from block 1 on."""
        contexts = np.array([context for context, _ in requests])
        lengths = np.array([length for _, length in requests])
        counts = -(-(contexts + lengths) // block_size)
        if tables is None:
            ends = np.cumsum(counts) + 1
            tables = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
        table = np.zeros((len(requests), int(counts.max()) + 2), dtype=np.int32)
        slots = []
        for row, blocks in enumerate(tables):
            table[row, : len(blocks)] = blocks
            positions = np.arange(contexts[row], contexts[row] + lengths[row])
            slots.append(table[row][positions // block_size] * block_size + positions % block_size)
        return Batch(
            query_start_loc=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
            seq_lens=(contexts + lengths).astype(np.int32),
            block_tables=(table,),
            slot_mappings=(np.concatenate(slots).astype(np.int64),),
            block_sizes=(block_size,),
        )

    return make

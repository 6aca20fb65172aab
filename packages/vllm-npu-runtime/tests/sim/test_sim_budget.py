"""The paper NPU counts its memory and its slots, and says how long a run takes."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping

import pytest
import torch

from vllm_npu_runtime.capture import Named, capture
from vllm_npu_runtime.drivers.sim import SimDriver
from vllm_npu_runtime.errors import (
    OutOfMemoryError,
)
from vllm_npu_runtime.ops.table import decompositions_for
from vllm_npu_runtime.program import Kind, Program
from vllm_npu_runtime.simulation.cost import peak_activations
from vllm_npu_runtime.simulation.datasheet import DATASHEETS, MIB

from .paper import free, load, make

Tensors = Mapping[str, torch.Tensor]


class TestMemory:
    """Bytes are counted, once each, and given back."""

    def test_weights_activations_and_buffers(self, driver: SimDriver, product: Program) -> None:
        """All that an executable takes."""
        before = free(driver)
        executable = load(driver, product)
        assert executable.memory == (8 * 16 + 8 * 4) * 4
        assert before - free(driver) == executable.memory + 16 * 4 * 4

    def test_shared_weights_count_once(self, driver: SimDriver, product: Program) -> None:
        """Buckets share them."""
        load_first = load(driver, product)
        taken = free(driver)
        load_second = load(driver, product)
        assert taken - free(driver) == load_second.memory == load_first.memory

    def test_cache_counts_when_bound(self, driver: SimDriver) -> None:
        """Whole, even if a slice is bound, and once for all that bind it."""
        program = make(lambda x, kv: kv.sum() + x, x=torch.randn(1), kv=torch.zeros(256))
        first, second = load(driver, program), load(driver, program)
        before = free(driver)
        cache = torch.zeros(2, 256)
        first.bind({"kv": cache[0]})
        second.bind({"kv": cache[1]})
        assert before - free(driver) == 2 * 256 * 4
        first.bind({"kv": torch.zeros(256)})
        assert before - free(driver) == 3 * 256 * 4
        second.close()
        first.close()
        assert free(driver) == DATASHEETS["tiny"].memory

    def test_too_large_weights(self, driver: SimDriver) -> None:
        """The error tells bytes wanted and free; nothing stays taken, no slot either."""
        rows = 64 * MIB // 4 // 1024 + 1
        program = make(lambda x, w: x @ w, x=torch.randn(1, rows), w=torch.zeros(rows, 1024))
        before = free(driver)
        for _ in range(DATASHEETS["tiny"].slots + 1):
            with pytest.raises(OutOfMemoryError, match=rf"wants {rows * 4096} bytes.*are free"):
                load(driver, program)
        assert free(driver) == before

    def test_too_large_cache(self, driver: SimDriver) -> None:
        """Nothing is bound when it doesn't fit; what was bound before runs on."""
        program = make(lambda x, kv: kv.sum() + x, x=torch.randn(1), kv=torch.zeros(256))
        executable = load(driver, program)
        executable.bind({"kv": torch.ones(256)})
        before = free(driver)
        huge = torch.empty(17 * MIB)
        with pytest.raises(OutOfMemoryError, match="Program 'p' wants"):
            executable.bind({"kv": huge[:256]})
        assert free(driver) == before
        assert executable.run()[0] == 256

    def test_memory_option(self, driver: SimDriver, product: Program) -> None:
        """Another total than the datasheet's."""
        with pytest.raises(OutOfMemoryError, match="of 800 are free"):
            load(driver, product, memory=800)
        executable = load(driver, product, memory=2000)
        assert executable.run()
        assert free(driver) == 2000 - (8 * 16 + 8 * 4 + 16 * 4) * 4

    def test_slots(self, driver: SimDriver, product: Program) -> None:
        """No more executables than there are slots; closing one frees its slot."""
        slots = DATASHEETS["tiny"].slots
        loaded = [load(driver, product) for _ in range(slots)]
        with pytest.raises(OutOfMemoryError, match=f"{slots} slots"):
            load(driver, product)
        loaded.pop().close()
        loaded.append(load(driver, product))

    def test_forgotten_executable_gives_everything_back(
        self, driver: SimDriver, product: Program
    ) -> None:
        """As a driver's destructor would."""
        before = free(driver)
        for _ in range(DATASHEETS["tiny"].slots + 1):
            load(driver, product)
        gc.collect()
        assert free(driver) == before

    def test_peak_of_activations(self) -> None:
        """Tensors live until their last reader; views keep their base alive, and cost nothing."""
        x = torch.randn(1000)

        def chain(x: torch.Tensor) -> torch.Tensor:
            first = x + 1
            second = first.view(10, 100) * 2
            return second.sum() + 3

        kilobytes = 1000 * 4
        assert peak_activations(make(chain, x=x)) == 2 * kilobytes
        both = make(lambda x: (x + 1) * (x + 2), x=x)
        assert peak_activations(both) == 3 * kilobytes


class TestEstimate:
    """Roofline: the longer of arithmetic and transfer, plus what starting costs."""

    def test_counts(self, driver: SimDriver, product: Program) -> None:
        """A product of 8 x 16 by 16 x 4: two operations for each multiply-add, each tensor once."""
        estimate = load(driver, product).estimate
        assert estimate.flops == 2 * 8 * 16 * 4
        assert estimate.bytes_moved == (8 * 16 + 16 * 4 + 8 * 4) * 4

    def test_seconds(self, driver: SimDriver, product: Program) -> None:
        """By the datasheet's figures."""
        sheet = DATASHEETS["small"]
        estimate = load(driver, product, "small").estimate
        assert estimate.compute_seconds == estimate.flops / sheet.flops[torch.float32]
        assert estimate.transfer_seconds == estimate.bytes_moved / sheet.bandwidth
        assert estimate.seconds == sheet.launch_overhead + max(
            estimate.compute_seconds, estimate.transfer_seconds
        )

    def test_half_precision_is_faster(self, driver: SimDriver) -> None:
        """Peak and bytes are those of the dtype."""
        times = {}
        for dtype in (torch.float32, torch.bfloat16):
            x, w = torch.zeros(8, 64, dtype=dtype), torch.zeros(64, 64, dtype=dtype)
            program = make(lambda x, w: x @ w, x=x, w=w)
            times[dtype] = load(driver, program, "small").estimate
        wide, narrow = times[torch.float32], times[torch.bfloat16]
        assert narrow.compute_seconds * 4 == pytest.approx(wide.compute_seconds)
        assert narrow.transfer_seconds * 2 == pytest.approx(wide.transfer_seconds)

    @pytest.mark.parametrize("decomposed", [False, True])
    def test_paged_attention_reads_its_blocks(self, driver: SimDriver, decomposed: bool) -> None:
        """Two products over the whole block table; the cache's other blocks stay where they are."""
        program = paged(tokens=4, requests=2, decomposed=decomposed)
        executable = load(driver, program)
        executable.bind({"kv": torch.zeros(program.named(Kind.KV_CACHE)["kv"].shape)})
        heads, size, groups, block, width = 4, 8, 2, 4, 3
        assert executable.estimate.flops == 2 * 2 * 4 * heads * size * width * block
        plain = sum(b.nbytes for b in program.named(Kind.INPUT).values())
        plain += sum(b.nbytes for b in program.outputs)
        # The decomposition gathers the context of each token; the operator, of each request.
        tables = 4 if decomposed else 2
        context = tables * width * groups * block * 2 * size * 4
        assert executable.estimate.bytes_moved == plain + context

    def test_each_device_piece_is_launched(self, driver: SimDriver) -> None:
        """Two pieces around one on the host."""
        program = make(lambda x: (x @ x).softmax(-1) @ x, x=torch.randn(4, 4))
        overhead = DATASHEETS["basic"].launch_overhead
        assert load(driver, program, "basic").estimate.launch_seconds == 2 * overhead

    def test_realtime(self, driver: SimDriver, product: Program) -> None:
        """A run takes at least its estimate; without the option it doesn't wait."""
        executable = load(driver, product, realtime=True)
        begin = time.perf_counter()
        executable.run()
        assert time.perf_counter() - begin >= executable.estimate.seconds > 1e-3


def paged(tokens: int, requests: int, decomposed: bool = False) -> Program:
    """Paged attention of 4 heads in 2 groups of size 8; 3 blocks of 4 tokens for a request."""
    query, key, value = (torch.zeros(tokens, n, 8) for n in (4, 2, 2))
    kv = torch.zeros(20, 2, 4, 16)
    table = torch.zeros(requests, 3, dtype=torch.int32)
    slots = torch.zeros(tokens, dtype=torch.int64)
    starts, lens = (torch.zeros(requests + n, dtype=torch.int32) for n in (1, 0))
    named = {"query": query, "key": key, "value": value, "table": table}
    named |= {"slots": slots, "starts": starts, "lens": lens}
    tensors = [Named(k, Kind.INPUT, v) for k, v in named.items()]
    device = SimDriver().capabilities("basic" if decomposed else "large")

    def attend() -> Tensors:
        out = torch.ops.vllm_npu.paged_attention(
            query, key, value, kv, table, slots, starts, lens, 0.3
        )
        return {"out": out}

    tensors.append(Named("kv", Kind.KV_CACHE, kv))
    return capture("paged", attend, tensors, decompositions_for(device))

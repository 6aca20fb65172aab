"""The paper NPU keeps to its datasheet, and fails on demand."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
import torch

from vllm_npu_runtime.drivers.base import CompileOptions, KVContract
from vllm_npu_runtime.drivers.sim import SimDriver
from vllm_npu_runtime.errors import (
    BadShapeError,
    ConfigurationError,
    DeviceLostError,
    DeviceTimeoutError,
    OutOfMemoryError,
    UnsupportedOperatorError,
)
from vllm_npu_runtime.program import Binding, Kind, Program
from vllm_npu_runtime.simulation.datasheet import DATASHEETS

from .paper import free, load, make

Tensors = Mapping[str, torch.Tensor]


class TestDatasheets:
    """What the devices are."""

    def test_devices(self, driver: SimDriver) -> None:
        """Their memory is their own, all of it free, and `auto` picks none of them."""
        for info in driver.devices():
            assert info.total_memory == info.free_memory == DATASHEETS[info.name].memory
            assert not info.is_npu
            assert not info.shares_host_memory

    def test_small_reads_its_cache_only(self, driver: SimDriver) -> None:
        """The gather contract, small batches."""
        small = driver.capabilities("small")
        assert small.kv_contracts == (KVContract.GATHER,)
        assert (small.max_batch_size, small.max_tokens) == (8, 256)
        assert small.static_shapes_only

    def test_large_prefers_paged(self, driver: SimDriver) -> None:
        """Both contracts."""
        assert driver.capabilities("large").kv_contracts == (KVContract.PAGED, KVContract.GATHER)

    def test_fingerprints_differ(self, driver: SimDriver) -> None:
        """What is compiled for one device is not for another."""
        assert len({driver.fingerprint(name) for name in DATASHEETS}) == len(DATASHEETS)

    def test_unknown_device_is_refused(self, driver: SimDriver, product: Program) -> None:
        """By every method that takes one, naming the nearest."""
        options = CompileOptions()
        for call in (
            driver.capabilities,
            driver.fingerprint,
            lambda name: driver.compile(product, name, options),
        ):
            with pytest.raises(ConfigurationError, match="Did you mean 'sim:small'"):
                call("smal")


class TestOptions:
    """Options are typed, and none is ignored."""

    def test_unknown_option_is_refused(self, driver: SimDriver, product: Program) -> None:
        """Naming the nearest."""
        with pytest.raises(ConfigurationError, match="Did you mean 'realtime'"):
            load(driver, product, real_time=True)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("memory", 0), ("memory", "1GiB"), ("memory", True), ("realtime", 1), ("fail", 3)],
    )
    def test_wrong_value_is_refused(
        self, driver: SimDriver, product: Program, name: str, value: object
    ) -> None:
        """Naming the option and the value."""
        with pytest.raises(ConfigurationError, match=f"'{name}'.*{value!r}"):
            load(driver, product, **{name: value})

    @pytest.mark.parametrize(
        "text", ["stall", "stall@walk", "fire@run", "stall@run:0", "stall@run:x"]
    )
    def test_malformed_fault_is_refused(
        self, driver: SimDriver, product: Program, text: str
    ) -> None:
        """Naming the part, and showing the grammar."""
        with pytest.raises(ConfigurationError, match=f"'{text}' is not a fault.*stall@run:3"):
            load(driver, product, fail=f"device_lost@run:1, {text}")

    def test_all_problems_are_told_at_once(self, driver: SimDriver, product: Program) -> None:
        """One error lists them."""
        with pytest.raises(ConfigurationError, match=r"2 settings(.|\n)*memory(.|\n)*realtime"):
            load(driver, product, memory=-1, realtime="yes")


class TestLimits:
    """What isn't on the datasheet is refused, or goes to the host."""

    def test_dynamic_shape_is_refused(self, driver: SimDriver) -> None:
        """A symbolic size anywhere in the graph."""
        graph = torch.fx.experimental.proxy_tensor.make_fx(
            lambda x: (x + 1,), tracing_mode="symbolic"
        )(torch.randn(3, 4))
        binding = Binding("x", Kind.INPUT, (3, 4), torch.float32)
        with pytest.raises(BadShapeError, match="static shapes only"):
            driver.compile(Program("p", graph, (binding,), (binding,)), "tiny", CompileOptions())

    def test_dtype_is_refused(self, driver: SimDriver) -> None:
        """The message names the tensor, its dtype, and what the device computes in."""
        program = make(lambda x: x + 1, x=torch.randn(3, dtype=torch.float64))
        with pytest.raises(BadShapeError, match=r"float64.*'x'.*computes in torch.float32"):
            load(driver, program)

    @pytest.mark.parametrize("bits", [4, 8])
    def test_packed_weights(self, driver: SimDriver, bits: int) -> None:
        """Formats that the datasheet lists are computed with, and cost their own bytes."""
        x, scale = torch.zeros(3, 64), torch.ones(32, 2)
        w = torch.randint(0, 256, (32, 8 * bits), dtype=torch.uint8)
        operator = torch.ops.vllm_npu.wna16_linear

        def product(x: torch.Tensor, w: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = operator(x, w, scale, None, None, bits)
            return out

        program = make(product, x=x, w=w, scale=scale)
        estimate = load(driver, program).estimate
        assert estimate.flops == 2 * 3 * 64 * 32
        assert estimate.bytes_moved == sum(each.nbytes for each in (x, w, scale)) + 3 * 32 * 4
        zero = torch.zeros(32, 2, dtype=torch.uint8)
        own = make(lambda x, w, scale, zero: operator(x, w, scale, zero, None, bits), x=x, w=w,
                   scale=scale, zero=zero)  # fmt: skip
        refused = f"packed as uint{bits}. It takes: uint4b8, uint8b128"
        with pytest.raises(UnsupportedOperatorError, match=refused):
            load(driver, own)

    def test_contract_is_refused(self, driver: SimDriver) -> None:
        """Paged attention on a device that only reads its cache."""
        with pytest.raises(UnsupportedOperatorError, match=r"'paged'.*It serves: gather"):
            load(driver, paged(), "small")

    @pytest.mark.parametrize(
        ("tokens", "requests", "what"), [(9, 9, "8 requests"), (264, 4, "256 tokens")]
    )
    def test_batch_is_refused(
        self, driver: SimDriver, tokens: int, requests: int, what: str
    ) -> None:
        """More requests or tokens than one run takes."""
        with pytest.raises(BadShapeError, match=f"takes {what}"):
            load(driver, gather(tokens, requests), "small")

    def test_largest_batch_is_taken(self, driver: SimDriver) -> None:
        """Limits are inclusive."""
        program = gather(tokens=256, requests=8)
        executable = load(driver, program, "small")
        executable.bind({"kv": torch.zeros(program.named(Kind.KV_CACHE)["kv"].shape)})
        executable.run()

    def test_unlisted_operators_run_on_the_host(self, driver: SimDriver) -> None:
        """And the executable says which."""
        x = torch.randn(4, 4)
        program = make(lambda x: (x @ x).softmax(-1) @ x, x=x)
        assert load(driver, program, "tiny").host_operators == ()
        executable = load(driver, program, "basic")
        assert executable.host_operators == ("aten._softmax",)
        executable.bind({"x": x})
        torch.testing.assert_close(executable.run()[0], (x @ x).softmax(-1) @ x)


class TestFaults:
    """Injected by count, over all executables of a device."""

    def test_out_of_memory_at_a_run(self, driver: SimDriver, product: Program) -> None:
        """The third run fails, whoever runs it, and the next ones don't."""
        options = {"fail": "out_of_memory@run:3"}
        first, second = (load(driver, product, **options) for _ in range(2))
        first.run()
        second.run()
        with pytest.raises(OutOfMemoryError, match=r"run 3 \(injected\)"):
            first.run()
        first.run()

    def test_out_of_memory_at_every_compile(self, driver: SimDriver, product: Program) -> None:
        """Without a number."""
        for _ in range(2):
            with pytest.raises(OutOfMemoryError, match="injected"):
                load(driver, product, fail="out_of_memory@compile")

    def test_stall_lasts_for_the_timeout(self, driver: SimDriver, product: Program) -> None:
        """Then it is an error, and the device goes on."""
        executable = load(driver, product, fail="stall@run:1", timeout=0.05)
        begin = time.perf_counter()
        with pytest.raises(DeviceTimeoutError, match=r"within 0.05 s"):
            executable.run()
        assert 0.05 <= time.perf_counter() - begin < 5
        executable.run()

    def test_stall_without_a_timeout_ends(self, driver: SimDriver, product: Program) -> None:
        """After a second: nothing hangs for ever on paper."""
        with pytest.raises(DeviceTimeoutError, match="within 1 s"):
            load(driver, product, fail="stall@compile:1")

    def test_lost_device_stays_lost(self, driver: SimDriver, product: Program) -> None:
        """For every executable and every call; closing still works."""
        first, second = (load(driver, product, fail="device_lost@run:2") for _ in range(2))
        first.run()
        for call in (
            first.run,
            first.run,
            second.run,
            lambda: second.bind({"x": torch.zeros(8, 16)}),
            lambda: load(driver, product),
        ):
            with pytest.raises(DeviceLostError, match="'sim:tiny' is gone"):
                call()
        first.close()
        second.close()
        load(driver, product, "small").run()

    def test_several_faults(self, driver: SimDriver, product: Program) -> None:
        """Separated by commas."""
        executable = load(driver, product, fail="out_of_memory@run:1, device_lost@run:2")
        with pytest.raises(OutOfMemoryError):
            executable.run()
        with pytest.raises(DeviceLostError):
            executable.run()

    def test_reset(self, driver: SimDriver, product: Program) -> None:
        """A new device: alive, empty, counting from one."""
        executable = load(driver, product, fail="device_lost@run:1")
        with pytest.raises(DeviceLostError):
            executable.run()
        driver.reset()
        assert free(driver) == DATASHEETS["tiny"].memory
        load(driver, product).run()


def paged() -> Program:
    """Paged attention of one head of size 8; one block of 4 tokens."""
    return make(
        lambda q, kv, table, slots, starts: torch.ops.vllm_npu.paged_attention(
            q, q, q, kv, table, slots, starts, table[0], 0.3
        ),
        q=torch.zeros(1, 1, 8),
        kv=torch.zeros(2, 1, 4, 16),
        table=torch.zeros(1, 1, dtype=torch.int32),
        slots=torch.zeros(1, dtype=torch.int64),
        starts=torch.zeros(2, dtype=torch.int32),
    )


def gather(tokens: int, requests: int) -> Program:
    """Gather attention of 2 heads of size 4; one block of 4 tokens for a request."""
    return make(
        lambda q, kv, table, lens: torch.ops.vllm_npu.gather_attention(
            q, q, q, kv, table, lens, 0.3
        ),
        q=torch.zeros(tokens, 2, 4),
        kv=torch.zeros(requests + 1, 2, 4, 8),
        table=torch.zeros(requests, 1, dtype=torch.int32),
        lens=torch.zeros(requests, dtype=torch.int32),
    )

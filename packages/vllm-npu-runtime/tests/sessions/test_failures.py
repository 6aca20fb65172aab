"""A failure takes down the rows that it touched, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

import pytest
import torch

from vllm_npu_runtime import drivers
from vllm_npu_runtime.conformance.serving import feed
from vllm_npu_runtime.errors import (
    BadShapeError,
    DeviceError,
    DeviceLostError,
    DeviceTimeoutError,
    OutOfMemoryError,
)
from vllm_npu_runtime.sessions.base import Placement, Row, Session

Open = Callable[..., Session]


def _rows(tokens: torch.Tensor) -> list[Row]:
    return [Row(slot, 0, tokens[slot * 10 : slot * 10 + 5 + slot]) for slot in range(3)]


def _free(board: int = 0) -> int:
    """Bytes that are left on the paper device "large"."""
    return drivers.load("sim")._devices[("large", board)].memory.free  # type: ignore[attr-defined]


class TestPaged:
    """OpenVINO's packed step."""

    def test_only_the_culprit_fails(self, opened: Open, tokens: torch.Tensor) -> None:
        """A step that fails is tried row by row; the rows that pass are whole."""
        session = opened("openvino:CPU")
        wanted = session.infer(_rows(tokens)).values.clone()
        run = session._run  # type: ignore[attr-defined]

        def broken(rows: list[Row], given: object) -> torch.Tensor:
            if any(row.slot == 1 for row in rows):
                raise DeviceError("injected")
            return run(rows, given)

        session._run = broken  # type: ignore[attr-defined]
        output = session.infer(_rows(tokens))
        session._run = run  # type: ignore[attr-defined]
        assert list(output.failed) == [1]
        assert "injected" in str(output.failed[1])
        first, second, third = output.values.split([5, 6, 7])
        torch.testing.assert_close(first, wanted[:5])
        assert not second.any()
        torch.testing.assert_close(third, wanted[11:])
        with pytest.raises(BadShapeError, match="holds 0"):
            session.infer([Row(1, 6, tokens[:1])])
        session.infer([Row(0, 5, tokens[:1]), Row(2, 7, tokens[:1])])

    def test_lost_device_ends_it(self, opened: Open, tokens: torch.Tensor) -> None:
        """Nothing is tried again, and every later call is refused."""
        session = opened("openvino:CPU")
        calls = []

        def lost(*_: object) -> torch.Tensor:
            calls.append(1)
            raise DeviceLostError("injected")

        session._run = lost  # type: ignore[attr-defined]
        for _ in range(2):
            with pytest.raises(DeviceLostError, match="injected"):
                session.infer(_rows(tokens))
        assert len(calls) == 1

    def test_stalled_step_fails_its_rows(self, opened: Open, tokens: torch.Tensor) -> None:
        """All of them, as it can't be told which; the next step runs."""
        session = opened("openvino:CPU", timeout=30.0)
        wanted = session.infer(_rows(tokens)).values.clone()
        session._runner._timeout = 1e-3  # type: ignore[attr-defined]
        output = session.infer([Row(slot, 0, tokens) for slot in range(4)])
        assert set(output.failed) == {0, 1, 2, 3}
        assert isinstance(output.failed[0], DeviceTimeoutError)
        session._runner._timeout = 30.0  # type: ignore[attr-defined]
        torch.testing.assert_close(session.infer(_rows(tokens)).values, wanted)

    def test_others_run_meanwhile(self, opened: Open, tokens: torch.Tensor) -> None:
        """A step doesn't hold Python's lock: another thread gets on with its work."""
        session, ended, ticks = opened("openvino:CPU"), Event(), []

        def tick() -> None:
            while not ended.wait(1e-4):
                ticks.append(1)

        thread = Thread(target=tick)
        thread.start()
        for _ in range(10):
            session.infer([Row(0, 0, tokens)])
        ended.set()
        thread.join()
        assert len(ticks) > 10


class TestReference:
    """PyTorch's loop over rows."""

    def test_only_the_culprit_fails(self, opened: Open, tokens: torch.Tensor) -> None:
        """The other rows' values are their own."""
        session = opened("reference")
        wanted = session.infer(_rows(tokens)).values.clone()
        run = session._run  # type: ignore[attr-defined]

        def broken(row: Row) -> torch.Tensor:
            if row.slot == 1:
                raise RuntimeError("can't allocate memory")
            return run(row)

        session._run = broken  # type: ignore[attr-defined]
        output = session.infer(_rows(tokens))
        assert isinstance(output.failed.pop(1), OutOfMemoryError)  # type: ignore[attr-defined]
        assert not output.failed
        assert torch.equal(output.values[:5], wanted[:5])
        assert not output.values[5:11].any()
        assert torch.equal(output.values[11:], wanted[11:])


class TestSim:
    """Faults on demand, and the datasheet's limits."""

    def test_memory_is_taken_and_given_back(self, opened: Open) -> None:
        """Weights and slots, for as long as the session is open."""
        session = opened("sim:large")
        assert 16 * 2**30 - _free() == session.memory
        assert session.memory > 4 * session.slot_bytes
        session.close()
        assert _free() == 16 * 2**30

    def test_too_little_memory(self, opened: Open) -> None:
        """The error says how much is wanted."""
        with pytest.raises(OutOfMemoryError, match="wants"):
            opened("sim:large", driver={"memory": 2**20})
        assert _free() == 2**20

    def test_out_of_memory_at_opening(self, opened: Open) -> None:
        """Injected."""
        with pytest.raises(OutOfMemoryError, match="open 1"):
            opened("sim:large", driver={"fail": "out_of_memory@open"})

    def test_failing_row(self, opened: Open, tokens: torch.Tensor) -> None:
        """The second row of the first step; the others go on."""
        session = opened("sim:large", driver={"fail": "out_of_memory@row:2"})
        output = session.infer(_rows(tokens))
        assert list(output.failed) == [1]
        assert not output.values[5:11].any()
        assert output.values[:5].any()
        with pytest.raises(BadShapeError, match="holds 0"):
            session.infer([Row(1, 6, tokens[:1])])
        assert not session.infer([Row(0, 5, tokens[:1]), Row(2, 7, tokens[:1])]).failed

    def test_stalled_step(self, opened: Open, tokens: torch.Tensor) -> None:
        """All its rows time out; the next step runs."""
        session = opened("sim:large", timeout=0.05, driver={"fail": "stall@step:1"})
        output = session.infer(_rows(tokens))
        assert set(output.failed) == {0, 1, 2}
        assert all(isinstance(each, DeviceTimeoutError) for each in output.failed.values())
        assert not session.infer(_rows(tokens)).failed

    def test_lost_device(self, opened: Open, tokens: torch.Tensor) -> None:
        """For good; closing gives the memory back all the same."""
        session = opened("sim:large", driver={"fail": "device_lost@step:2"})
        hidden = session.infer(_rows(tokens)).values
        for _ in range(2):
            with pytest.raises(DeviceLostError):
                session.infer(_rows(tokens))
        with pytest.raises(DeviceLostError):
            session.logits(hidden)
        session.close()
        assert _free() == 16 * 2**30

    def test_datasheet_limits(self, opened: Open, tokens: torch.Tensor) -> None:
        """Rows and tokens of a step."""
        session = opened("sim:small", slots=8)
        with pytest.raises(BadShapeError, match="256 tokens"):
            session.infer([Row(0, 0, tokens[:200]), Row(1, 0, tokens[:57])])
        session.infer([Row(0, 0, tokens[:200]), Row(1, 0, tokens[:56])])

    def test_estimate(self, opened: Open, tokens: torch.Tensor) -> None:
        """More tokens cost more operations, a longer context more bytes; realtime takes it."""
        session = opened("sim:tiny")
        session.infer([Row(0, 0, tokens[:10])])
        ten = session.estimate  # type: ignore[attr-defined]
        session.infer([Row(0, 10, tokens[:1])])
        short = session.estimate  # type: ignore[attr-defined]
        session.infer([Row(1, 0, tokens[:500])])
        session.infer([Row(1, 500, tokens[:1])])
        long = session.estimate  # type: ignore[attr-defined]
        assert ten.flops > 9 * short.flops
        kept = 2 * 2 * 2 * 32 * 4  # two of keys and values, layers, heads of 32, float32
        assert long.bytes_moved - short.bytes_moved == 490 * kept
        assert short.seconds < long.seconds

    def test_realtime(self, opened: Open, tokens: torch.Tensor) -> None:
        """A step takes no less than its estimate."""
        from time import perf_counter

        session = opened("sim:tiny", driver={"realtime": True})
        begin = perf_counter()
        session.infer([Row(0, 0, tokens)])
        assert perf_counter() - begin >= session.estimate.seconds  # type: ignore[attr-defined]


class TestBoards:
    """Several boards as one session."""

    def test_errors_are_kept_by_row(self, opened: Open, tokens: torch.Tensor) -> None:
        """A board that stalls fails its rows; those of the others are whole."""
        session = opened("sim:large", slots=3, placement=Placement(dev_no=(0, 1)), timeout=0.05)
        wanted = session.infer(_rows(tokens)).values.clone()
        board = drivers.load("sim")._devices[("large", 1)]  # type: ignore[attr-defined]
        from vllm_npu_runtime.simulation.faults import parse

        board._faults = parse("stall@step:2")
        output = session.infer(_rows(tokens))
        assert list(output.failed) == [1]
        assert torch.equal(output.values[:5], wanted[:5])
        assert torch.equal(output.values[11:], wanted[11:])
        assert not output.values[5:11].any()

    def test_lost_board_ends_the_group(self, opened: Open, tokens: torch.Tensor) -> None:
        """As its slots are gone."""
        session = opened("sim:large", slots=3, placement=Placement(dev_no=(0, 1)))
        board = drivers.load("sim")._devices[("large", 1)]  # type: ignore[attr-defined]
        from vllm_npu_runtime.simulation.faults import parse

        board._faults = parse("device_lost@step:1")
        for _ in range(2):
            with pytest.raises(DeviceLostError):
                session.infer(_rows(tokens))
        session.close()
        assert _free(0) == _free(1) == 16 * 2**30

    def test_board_that_does_not_open_closes_the_others(
        self, opened: Open, tokens: torch.Tensor
    ) -> None:
        """No memory stays taken."""
        drivers.load("sim")._device(_large(), 1).memory.total = 1000  # type: ignore[attr-defined]
        with pytest.raises(OutOfMemoryError):
            opened("sim:large", placement=Placement(dev_no=(0, 1)))
        assert _free(0) == 16 * 2**30

    def test_figures(self, opened: Open, tokens: torch.Tensor) -> None:
        """A share of the slots each, logits made by all."""
        session = opened("sim:large", slots=5, placement=Placement(dev_no=(3, 4)))
        one = opened("reference", slots=3)
        assert session.capabilities.slots == 5
        assert session.memory == 2 * one.memory
        hidden = feed(one, 0, tokens, 0, 5)
        torch.testing.assert_close(session.logits(hidden), one.logits(hidden))
        assert session.logits(hidden[:0]).shape == (0, 256)
        assert "2 boards" in session.describe()


def _large() -> object:
    from vllm_npu_runtime.simulation.datasheet import LARGE

    return LARGE

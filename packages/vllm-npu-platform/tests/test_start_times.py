"""What a start spends its time on."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import psutil
import pytest

from vllm_npu_platform.stats import beginning
from vllm_npu_platform.stats import start_times as parts
from vllm_npu_platform.stats.start_times import StartTimes


class Clock:
    """A monotonic clock that stands still between steps."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time, and a process that began with it."""
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    monkeypatch.setattr(beginning, "_state", beginning.Beginning(made.now))
    return made


def test_parts_add_up_to_the_whole(clock: Clock) -> None:
    clock.passes(20)
    beginning.configuring()
    clock.passes(3)
    times = StartTimes()
    with times.part(parts.WEIGHTS):
        clock.passes(2)
    clock.passes(1)
    with times.part(parts.WARM_UP):
        clock.passes(0.5)
    times.finish()
    assert times.seconds == {
        parts.IMPORTS: 20,
        parts.WEIGHTS: 2,
        parts.KV_CACHE: 0,
        parts.CAPTURE: 0,
        parts.COMPILE: 0,
        parts.LOAD: 0,
        parts.WARM_UP: 0.5,
        parts.OTHER: 4,
    }
    assert times.line() == (
        "Start-up took 26.5 s: imports 20.0 s, weights 2.0 s, warm-up 0.5 s, other 4.0 s"
    )


def test_a_part_within_another_interrupts_it(clock: Clock) -> None:
    times = StartTimes()
    with times.part(parts.WARM_UP):
        clock.passes(1)
        for _ in range(2):
            with times.part(parts.CAPTURE):
                clock.passes(4)
            with times.part(parts.COMPILE):
                clock.passes(2)
        clock.passes(3)
    assert (times.seconds[parts.WARM_UP], times.seconds[parts.CAPTURE]) == (4, 8)
    assert times.seconds[parts.COMPILE] == 4


def test_what_fails_is_counted_too(clock: Clock) -> None:
    times = StartTimes()
    with pytest.raises(OSError), times.part(parts.LOAD):
        clock.passes(1)
        raise OSError
    clock.passes(1)
    assert times.seconds[parts.LOAD] == 1


def test_after_the_start_nothing_is_counted(clock: Clock) -> None:
    """As a graph that is compiled late."""
    times = StartTimes()
    times.finish()
    before = dict(times.seconds)
    with times.part(parts.CAPTURE):
        clock.passes(9)
    times.finish()
    assert times.seconds == before


def test_an_engine_that_was_configured_elsewhere_has_imported_for_itself(clock: Clock) -> None:
    """One that is spawned."""
    clock.passes(20)
    assert StartTimes().seconds[parts.IMPORTS] == 20


@pytest.mark.parametrize("where", ["here", "in a process of its own"])
def test_the_next_engine_of_a_process_imports_nothing(clock: Clock, where: str) -> None:
    beginning.configuring()
    clock.passes(20)
    if where == "here":
        StartTimes().finish()
    else:
        beginning.handed_over()
    clock.passes(100)
    beginning.configuring()
    beginning.configuring()  # of the same engine: vLLM makes more than one configuration
    clock.passes(3)
    times = StartTimes()
    times.finish()
    assert times.seconds[parts.IMPORTS] == 0
    assert times.seconds[parts.OTHER] == 3


def test_an_engine_of_the_fork_server_begins_with_the_process_that_asked_for_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.passes(100)
    beginning.handed_over()
    beginning.configuring()  # the second engine's
    handed = pickle.dumps(beginning.known())
    monkeypatch.setattr(beginning, "_state", beginning.Beginning(clock.now - 100))
    beginning.take_over(pickle.loads(handed))
    clock.passes(2)
    times = StartTimes()
    times.finish()
    assert (times.seconds[parts.IMPORTS], times.seconds[parts.OTHER]) == (0, 2)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_the_clock_begins_with_the_process() -> None:
    age = time.time() - psutil.Process(os.getpid()).create_time()
    # The system counts in hundredths, and psutil's clock in whole seconds of the boot.
    assert abs(time.monotonic() - beginning._process_began() - age) < 2

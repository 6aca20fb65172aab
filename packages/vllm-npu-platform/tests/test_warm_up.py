"""Warm-up: every graph is begun and finished in order, some at the same time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from vllm_npu_platform.graph.warm_up import warm_up


class Executor:
    """Notes what is done with its graphs."""

    prefix = "draft:"

    def __init__(self, at_once: int, count: int = 4) -> None:
        self.at_once = at_once
        self.shapes = range(count)
        self.done: list[str] = []

    def begin(self, shape: int) -> Callable[[], None]:
        self.done.append(f"begin {shape}")
        return lambda: self.done.append(f"finish {shape}")

    def seal(self) -> None:
        self.done.append("seal")


def warmed_up(executor: Any, *heads: Any) -> list[str]:
    warm_up([executor], heads)
    done: list[str] = executor.done
    return done


def test_a_driver_that_compiles_one_at_a_time_has_each_finished_before_the_next() -> None:
    steps = ["begin 0", "finish 0", "begin 1", "finish 1", "seal"]
    assert warmed_up(Executor(at_once=1, count=2)) == steps


def test_a_driver_that_compiles_aside_has_the_next_ones_captured_meanwhile() -> None:
    assert warmed_up(Executor(at_once=2)) == [
        *("begin 0", "begin 1", "finish 0", "begin 2", "finish 1"),
        *("begin 3", "finish 2", "finish 3", "seal"),
    ]


def test_heads_come_last() -> None:
    executor = Executor(at_once=8, count=1)

    class Head:
        name = "logits"

        def begin(self) -> Callable[[], None]:
            return executor.begin("head")  # type: ignore[arg-type]

    done = warmed_up(executor, Head())
    assert done == ["begin 0", "begin head", "finish 0", "finish head", "seal"]


def test_a_stop_ends_it_before_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Executor(at_once=1)
    plain = executor.begin

    def begin(shape: int) -> Callable[[], None]:
        if shape == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(shape)

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    monkeypatch.setattr(executor, "begin", begin)
    try:
        with pytest.raises(SystemExit):
            warmed_up(executor)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert executor.done == ["begin 0", "finish 0", "begin 1"]

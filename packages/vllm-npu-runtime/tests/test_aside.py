"""Work in a thread of its own."""

from __future__ import annotations

import threading

import pytest

from vllm_npu_runtime.aside import aside


def test_the_caller_goes_on_and_gets_the_result_when_it_asks() -> None:
    go = threading.Event()

    def work() -> str:
        go.wait()
        return threading.current_thread().name

    finish = aside(work)
    go.set()  # never reached if the work were done before `aside` returned
    assert finish() == finish() == "npu-compile"


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    def work() -> None:
        raise MemoryError("too little")

    with pytest.raises(MemoryError, match="too little"):
        aside(work)()

"""Asking in a child process."""

import os
import signal
import time

import psutil
import pytest

from vllm_npu_runtime.asking import in_child
from vllm_npu_runtime.errors import ConfigurationError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")


def children() -> set[int]:
    """Processes that this one has started, ended ones that nobody has waited for included."""
    return {each.pid for each in psutil.Process().children()}


def test_the_answer_comes_from_another_process() -> None:
    assert in_child("Asking", os.getpid) != os.getpid()


def test_a_long_answer_comes_whole() -> None:
    assert in_child("Asking", lambda: b"x" * (1 << 20)) == b"x" * (1 << 20)


def test_an_error_is_raised_here() -> None:
    def fail() -> None:
        raise ConfigurationError("the runtime is too old")

    with pytest.raises(ConfigurationError, match="the runtime is too old"):
        in_child("Asking", fail)


def test_a_crash_is_an_error_that_names_the_signal() -> None:
    with pytest.raises(ConfigurationError, match=r"Asking acme ended with signal 9\."):
        in_child("Asking acme", lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_an_answer_that_never_comes_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"Asking acme took more than 0\.1 s\."):
        in_child("Asking acme", lambda: time.sleep(60), seconds=0.1)


@pytest.mark.parametrize("seconds", [0.1, 30])
def test_no_child_is_left(seconds: float) -> None:
    before = children()

    def late_or_dead() -> None:
        if seconds >= 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(ConfigurationError):
        in_child("Asking", late_or_dead, seconds)
    assert children() == before

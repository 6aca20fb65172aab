"""How an engine's process is started: forked where that is safe, unless the user says otherwise."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_npu_platform.processes import fork_server, start_method
from vllm_npu_runtime.errors import ConfigurationError

VARIABLE = start_method.VARIABLE


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def process(**kwargs: Any) -> Any:
    return SimpleNamespace(name="EngineCore", _kwargs=kwargs)


def obstacles(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    monkeypatch.setattr(start_method, "obstacles", lambda: list(found))


def server(monkeypatch: pytest.MonkeyPatch, running: bool) -> list[str]:
    started: list[str] = []
    monkeypatch.setattr(fork_server, "is_running", lambda: running)
    monkeypatch.setattr(fork_server, "start", lambda: started.append("started"))
    return started


def test_a_process_that_holds_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    obstacles(monkeypatch)
    assert start_method.method_for(process()) == "fork"


def test_else_the_fork_server_forks_and_else_it_is_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    obstacles(monkeypatch, "thread 'x'")
    server(monkeypatch, running=True)
    assert start_method.method_for(process()) == "forkserver"
    server(monkeypatch, running=False)
    assert start_method.method_for(process()) == "spawn"


def test_shared_tensors_need_a_process_that_is_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    obstacles(monkeypatch)
    assert start_method.method_for(process(tensor_queue=object())) == "spawn"


@pytest.mark.parametrize("method", start_method.METHODS)
def test_a_users_choice_wins(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    obstacles(monkeypatch)
    monkeypatch.setenv(VARIABLE, method)
    assert start_method.method_for(process()) == method


def test_spawn_as_vllms_command_sets_it_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "spawn")
    assert start_method.chosen_by_user() == "spawn"
    monkeypatch.setitem(sys.modules, "vllm.entrypoints.cli.main", SimpleNamespace())
    monkeypatch.setattr(start_method, "_was_set_at_start", lambda: False)
    assert start_method.chosen_by_user() is None
    monkeypatch.setattr(start_method, "_was_set_at_start", lambda: True)
    assert start_method.chosen_by_user() == "spawn"


def test_a_fork_that_is_not_safe_is_done_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    obstacles(monkeypatch, "thread 'mine'")
    monkeypatch.setenv(VARIABLE, "fork")
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.WARNING, "vllm.npu"):
        assert start_method.method_for(process()) == "fork"
    assert "thread 'mine'" in caplog.text


def test_an_unknown_method_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "thread")
    with pytest.raises(ConfigurationError, match=r"'thread'.*fork, forkserver, spawn.*Unset it"):
        start_method.use()


def test_a_fork_server_is_started_early_only_where_a_fork_will_not_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    started = server(monkeypatch, running=False)
    obstacles(monkeypatch)
    start_method.prepare()
    assert not started
    obstacles(monkeypatch, "thread 'x'")
    start_method.prepare()
    assert started
    started.clear()
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    start_method.prepare()
    assert not started


def test_vllm_starts_its_processes_by_it() -> None:
    import multiprocessing

    import vllm.envs
    from vllm.utils.system_utils import get_mp_context

    before = vllm.envs.environment_variables[VARIABLE]
    try:
        start_method.use()
        assert get_mp_context() is multiprocessing.get_context(start_method.NAME)
        assert get_mp_context().Process is start_method._Process
    finally:
        vllm.envs.environment_variables[VARIABLE] = before


NO_GUARD = """
import threading
from vllm_npu_platform.processes import start_method
threading.Thread(target=threading.Event().wait, daemon=True).start()
process = start_method._Context().Process(target=print, args=("answered", METHOD))
METHOD
process.start()
process.join()
print(process.exitcode)
"""


def test_a_script_without_a_guard_starts_a_process_whatever_it_holds(
    output: Callable[..., str],
) -> None:
    source = NO_GUARD.replace('"answered", METHOD', '"answered",').replace("METHOD", "")
    assert output(source).split() == ["answered", "0"]


def test_the_fork_servers_child_has_its_parents_environment(output: Callable[..., str]) -> None:
    source = """
import os
from vllm_npu_platform.processes import fork_server, start_method
fork_server.PRELOADED = "json"
if __name__ == "__main__":
    fork_server.start()
    os.environ["SET_LATER"] = "yes"
    process = start_method._Context().Process(target=os.system, args=("echo $SET_LATER",))
    process.start()
    process.join()
"""
    assert output(source, VLLM_WORKER_MULTIPROC_METHOD="forkserver") == "yes"

"""A slot that fails takes its own request down, at once, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vllm.v1.request import RequestStatus

from .fakes import TokenSession
from .serving import Serving, expected

A = list(range(100, 150))
B = list(range(300, 310))

AHEAD = pytest.mark.parametrize("ahead", [False, True], ids=["in step", "ahead"])


@pytest.fixture
def serving(tmp_path: Path) -> Any:
    """A server of so many slots."""

    def make(slots: int = 2, **more: Any) -> Serving:
        return Serving(tmp_path, TokenSession(slots, 256), **more)

    return make


def _slot(server: Serving, name: str) -> int:
    return server._blocks[name] - 1


@AHEAD
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 4])
@pytest.mark.parametrize("prompt", [B, A], ids=["one chunk", "two chunks"])
def test_in_the_first_step(
    serving: Any, ahead: bool, enabled: bool, max_tokens: int, prompt: list[int]
) -> None:
    server = serving(ahead=ahead, enabled=enabled)
    server.submit("bad", prompt, max_tokens)
    server.failing = {0}
    server.step()
    server.failing = set()
    server.submit("good", A)
    server.drain()
    assert (server.reasons["bad"], server.tokens["bad"]) == ("error", [])
    assert server.tokens["good"] == expected(A, 4)


@AHEAD
def test_in_decode(serving: Any, ahead: bool) -> None:
    server = serving(ahead=ahead)
    server.submit("bad", B, 20)
    server.submit("good", A, 20)
    for _ in range(5):
        server.step()
    server.failing = {_slot(server, "bad")}
    server.step()
    server.failing = set()
    server.drain()
    assert server.reasons == {"bad": "error", "good": "length"}
    told = server.tokens["bad"]
    assert told == expected(B, len(told))
    assert server.tokens["good"] == expected(A, 20)


@AHEAD
def test_the_slot_serves_again_from_nothing(serving: Any, ahead: bool) -> None:
    server = serving(1, ahead=ahead)
    server.submit("bad", A, 20)
    for _ in range(4):
        server.step()
    server.failing = {0}
    server.step()
    server.failing = set()
    server.submit("next", A)
    server.drain()
    assert server.reasons == {"bad": "error", "next": "length"}
    assert server.computed["next"] >= len(A)
    assert server.tokens["next"] == expected(A, 4)


def test_a_request_that_got_the_slot_meanwhile_is_spared(serving: Any) -> None:
    """A step scheduled ahead fails after its request was aborted and its slot given away."""
    server = serving(1, ahead=True)
    server.submit("bad", A, 20)
    server.step()
    server.failing = {0}
    scheduled = server.scheduler.schedule()
    output = server._run(scheduled)
    server._queue.append((scheduled, output))
    server.failing = set()
    server.scheduler.finish_requests("bad", RequestStatus.FINISHED_ABORTED)
    server.submit("next", B)
    late = server.scheduler.schedule()
    server._queue.append((late, server._run(late)))
    server.drain()
    assert server.reasons["next"] == "length"
    assert server.tokens["next"] == expected(B, 4)


@AHEAD
def test_a_load_from_the_host_that_fails_is_made_up_for(serving: Any, ahead: bool) -> None:
    server = serving(1, ahead=ahead)
    server.serve("1", A)
    server.serve("2", B)
    server.session.out_of_memory = {"restore"}
    assert server.serve("3", [*A, 1]) == expected([*A, 1], 4)
    assert server.reasons["3"] == "length"
    assert [call[0] for call in server.session.calls].count("restore") == 1


@AHEAD
def test_a_copy_from_another_slot_that_fails_is_made_up_for(serving: Any, ahead: bool) -> None:
    """Again and again: each request tries it once."""
    server = serving(3, ahead=ahead)
    server.session.out_of_memory = {"copy"}
    server.submit("1", [*A, 1], 30)
    for _ in range(4):
        server.step()
    server.submit("2", [*A, 2])
    server.submit("3", [*A, 3])
    server.drain()
    assert server.tokens["1"] == expected([*A, 1], 30)
    for number in (2, 3):
        assert server.tokens[str(number)] == expected([*A, number], 4)
    assert [call[0] for call in server.session.calls].count("copy") == 2


def test_a_snapshot_of_another_session_is_never_loaded(serving: Any) -> None:
    server = serving(1)
    server.serve("1", A)
    server.serve("2", B)
    server.session.identity = "another"
    assert server.serve("3", [*A, 1]) == expected([*A, 1], 4)
    assert not any(call[0] == "restore" for call in server.session.calls)


def test_vllms_own_scheduler_misses_a_failure_in_the_first_step(serving: Any) -> None:
    """Why there is a scheduler of ours. Once this fails, vLLM may not need it any more."""
    server = serving(ours=False)
    server.submit("bad", B, 1)
    server.failing = {0}
    server.drain()
    assert (server.reasons["bad"], server.tokens["bad"]) == ("length", [0])

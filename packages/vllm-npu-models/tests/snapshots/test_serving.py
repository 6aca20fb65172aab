"""The connector under vLLM's own scheduler: the same tokens as without it, from fewer computed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.v1.request import RequestStatus

from .fakes import TokenSession
from .serving import Serving, expected

A = list(range(100, 150))
B = list(range(300, 340))
C = list(range(500, 550))

AHEAD = pytest.mark.parametrize("ahead", [False, True], ids=["in step", "ahead"])


@pytest.fixture
def serving(tmp_path: Path) -> Any:
    """A server of so many slots."""

    def make(slots: int = 2, session: TokenSession | None = None, **more: Any) -> Serving:
        return Serving(tmp_path, session or TokenSession(slots, 256), **more)

    return make


@AHEAD
def test_a_second_turn_computes_only_what_is_new(serving: Any, ahead: bool) -> None:
    server = serving(ahead=ahead)
    first = server.serve("1", A)
    turn = [*A, *first, 1, 2, 3]
    assert server.serve("2", turn) == expected(turn, 4)
    # The turn's own three tokens, the last that was sampled before, and the answer but its last.
    assert server.computed["2"] - (1 if ahead else 0) <= 4 + 3
    assert server.session.calls == []


@AHEAD
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_more_conversations_than_slots_keep_their_prefixes_on_the_host(
    serving: Any, ahead: bool, slots: int
) -> None:
    server = serving(slots, ahead=ahead)
    talks = {name: list(tokens) for name, tokens in {"a": A, "b": B, "c": C}.items()}
    for turn in range(3):
        for name, tokens in talks.items():
            request = f"{name}{turn}"
            answer = server.serve(request, list(tokens))
            assert answer == expected(tokens, 4)
            if turn:
                assert server.computed[request] < 12
            tokens += [*answer, 1, 2, turn]


@AHEAD
@pytest.mark.parametrize("drafts", [0, 2])
@pytest.mark.parametrize("seed", range(6))
def test_mixed_traffic_gives_the_same_tokens(
    serving: Any, ahead: bool, drafts: int, seed: int
) -> None:
    """Aborts, forced preemption and resets in between; more requests than slots."""
    if ahead and drafts:
        pytest.skip("drafts of steps scheduled ahead are the runner's, which is not here")
    server = serving(3, ahead=ahead, drafts=drafts, prefix_cache_max_entries=4)
    draw = random.Random(seed)
    prompts: dict[str, list[int]] = {}
    aborted = set()
    pool = [A, B, C]
    for number in range(40):
        name = str(number)
        prompts[name] = [*draw.choice(pool)[: draw.randint(1, 50)], *draw.choices(range(9), k=3)]
        server.submit(name, list(prompts[name]), draw.randint(1, 9))
        for _ in range(draw.randint(0, 3)):
            server.step()
        event = draw.random()
        if event < 0.1:
            server.scheduler.reset_prefix_cache(reset_running_requests=True)
        elif event < 0.15:
            server.scheduler.reset_prefix_cache(reset_connector=True)
        elif event < 0.3:
            aborted.add(name)
            server.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)
        done = [each for each, reason in server.reasons.items() if reason == "length"]
        if done:
            last = draw.choice(done)
            pool.append([*prompts[last], *server.tokens[last]])
    server.drain()
    for name, prompt in prompts.items():
        answer = server.tokens[name]
        assert answer == expected(prompt, len(answer)), name
        if name not in aborted:
            assert server.reasons[name] == "length"
    if not drafts:
        assert sum(server.computed.values()) < sum(map(len, prompts.values()))


@AHEAD
def test_a_shared_prompt_is_computed_once(serving: Any, ahead: bool) -> None:
    server = serving(4, ahead=ahead)
    server.submit("0", [*A, 0])
    server.step()
    server.step()
    for name in ("1", "2", "3"):
        server.submit(name, [*A, int(name)])
    server.drain()
    assert [server.tokens[str(n)] for n in range(4)] == [expected([*A, n], 4) for n in range(4)]
    assert max(server.computed[name] for name in ("1", "2", "3")) < 12


@AHEAD
def test_an_aborted_prompt_is_gone_on_from(serving: Any, ahead: bool) -> None:
    server = serving(ahead=ahead)
    prompt = [*A, *B]
    server.submit("1", prompt)
    server.step()
    server.scheduler.finish_requests("1", RequestStatus.FINISHED_ABORTED)
    server.drain()
    assert server.serve("2", prompt) == expected(prompt, 4)
    assert server.computed["2"] <= len(prompt) - 32 + 4


def _embedded(request: Any) -> None:
    request.prompt_embeds = torch.zeros(request.num_tokens, 8)


def _image(identifier: str) -> list[MultiModalFeatureSpec]:
    place = PlaceholderRange(offset=8, length=20)
    return [MultiModalFeatureSpec(None, "image", identifier, place)]


def _lora(name: str) -> LoRARequest:
    return LoRARequest(name, 1, f"/{name}")


@pytest.mark.parametrize(
    ("first", "second", "most"),
    [
        ({"cache_salt": "one"}, {"cache_salt": "two"}, 0),
        ({"cache_salt": "one"}, {}, 0),
        ({"cache_salt": "one"}, {"cache_salt": "one"}, 50),
        ({"lora_request": _lora("one")}, {"lora_request": _lora("two")}, 0),
        ({"lora_request": _lora("one")}, {}, 0),
        ({"mm_features": _image("one")}, {"mm_features": _image("two")}, 8),
        ({"mm_features": _image("one")}, {}, 8),
        ({"mm_features": _image("one")}, {"mm_features": _image("one")}, 50),
        ({}, {"sampling": {"prompt_logprobs": 1}}, 0),
        ({"sampling": {"prompt_logprobs": 1}}, {}, 50),
        ({"resumable": True}, {}, 0),
        ({"prompt_embeds": torch.zeros(50, 8)}, {}, 0),
        ({"prompt_embeds": torch.zeros(50, 8)}, {"prompt_embeds": torch.ones(50, 8)}, 0),
    ],
)
def test_nothing_foreign_is_gone_on_from(
    serving: Any, first: dict[str, Any], second: dict[str, Any], most: int
) -> None:
    server = serving()
    side = server.connector._scheduler_side
    one = _request("1", **first)
    assert side.match(one, 0) == 0
    side.admit(one, [1], 0)
    one.num_computed_tokens = 50
    one.append_output_token_ids(7)
    one.status = RequestStatus.FINISHED_STOPPED
    side.finish(one, has_slot=True)
    two = _request("2", **second)
    two.append_output_token_ids(7)
    assert side.match(two, 0) == most


def _request(name: str, **more: Any) -> Any:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    more = dict(more)
    sampling = SamplingParams(max_tokens=4, **more.pop("sampling", {}))
    tokens = None if "prompt_embeds" in more else A
    return Request(name, tokens, sampling, None, **more)


@AHEAD
def test_turned_off_every_token_is_computed(serving: Any, ahead: bool) -> None:
    server = serving(ahead=ahead, enabled=False)
    for name in ("1", "2"):
        assert server.serve(name, A) == expected(A, 4)
        assert server.computed[name] >= len(A)
    assert [call[0] for call in server.session.calls] == ["forget", "forget"]


def test_a_reset_forgets_all_and_frees_the_host_at_once(serving: Any) -> None:
    server = serving(1)
    server.serve("1", A)
    server.serve("2", B)
    assert server.worker._executor.host_bytes
    assert server.scheduler.reset_prefix_cache(reset_connector=True)
    server.drain()
    assert server.worker._executor.host_bytes == 0
    server.serve("3", A)
    assert server.computed["3"] >= len(A)


@AHEAD
def test_vllm_counts_the_hits(serving: Any, ahead: bool) -> None:
    server = serving(ahead=ahead)
    server.serve("1", A)
    server.stats.clear()
    server.serve("2", [*A, 1, 2])
    counts = [each.connector_prefix_cache_stats for each in server.stats]
    assert sum(each.queries for each in counts) == len(A) + 2
    assert sum(each.hits for each in counts) == len(A)
    ours = [each.kv_connector_stats for each in server.stats if each.kv_connector_stats]
    assert sum(each["hit_tokens"] for each in ours) == len(A)

"""The proxy of the example, between a client and engines that are made up."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from examples.disaggregation.proxy import Options, is_split, make_app, prefill_body

PREFILL, DECODE = "http://prefill", "http://decode"
WHERE = {"do_remote_prefill": True, "remote_host": "here", "remote_block_ids": [[1, 2]]}
PATH = "/v1/completions"
BODY = {"model": "demo", "prompt": "Shall I", "max_tokens": 8, "stream": False}

Answer = Callable[[httpx.Request], httpx.Response]


class Engines:
    """Engines that answer as they are told, and remember what they were asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[httpx.Headers] = []
        self.answers: dict[str, Answer] = {
            "prefill": lambda _: httpx.Response(200, json={"kv_transfer_params": WHERE}),
            "decode": lambda _: httpx.Response(200, json={"choices": [{"text": " compare"}]}),
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        content = json.loads(request.content) if request.content else None
        self.asked.append((request.url.host, request.url.path, content))
        self.headers.append(request.headers)
        response = self.answers[request.url.host](request)
        if not response.is_stream_consumed:
            return response
        # One that was made with its content counts as read.
        body = httpx.ByteStream(response.content)
        return httpx.Response(response.status_code, headers=response.headers, stream=body)

    def body(self, engine: str) -> Any:
        """Of the only request to an engine."""
        (body,) = [body for host, _path, body in self.asked if host == engine]
        return body


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
def client(engines: Engines) -> Iterator[TestClient]:
    app = make_app(Options((PREFILL,), (DECODE,)), httpx.MockTransport(engines))
    with TestClient(app) as client:
        yield client


def fails(error: Exception) -> Answer:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise error

    return answer


class TestSplitting:
    """One engine computes the prompt, the other one what follows."""

    def test_the_decode_engine_learns_where_the_kv_is(
        self, client: TestClient, engines: Engines
    ) -> None:
        response = client.post(PATH, json=BODY)
        assert response.json() == {"choices": [{"text": " compare"}]}
        assert [host for host, *_ in engines.asked] == ["prefill", "decode"]
        assert engines.body("decode") == BODY | {"kv_transfer_params": WHERE}

    def test_the_prefill_engine_computes_one_token(
        self, client: TestClient, engines: Engines
    ) -> None:
        asked = BODY | {"stream": True, "stream_options": {"include_usage": True}, "min_tokens": 4}
        client.post(PATH, json=asked | {"max_completion_tokens": 8})
        assert engines.body("prefill") == BODY | {
            "max_tokens": 1,
            "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False},
        }

    def test_both_engines_see_the_same_request_identifier_and_key(
        self, client: TestClient, engines: Engines
    ) -> None:
        client.post(PATH, json=BODY, headers={"Authorization": "Bearer key"})
        first, second = engines.headers
        assert first["x-request-id"] == second["x-request-id"]
        assert first["authorization"] == second["authorization"] == "Bearer key"

    def test_a_client_cannot_say_where_kv_is(self, client: TestClient, engines: Engines) -> None:
        theirs = {"kv_transfer_params": {"remote_host": "elsewhere"}}
        client.post(PATH, json=BODY | theirs | {"n": 2})
        assert "kv_transfer_params" not in engines.body("decode")

    @pytest.mark.parametrize(
        "fields",
        [
            {"n": 2},
            {"best_of": 2},
            {"prompt": ["a", "b"]},
            {"prompt": [[1], [2]]},
            {"echo": True},
            {"prompt_logprobs": 0},
            {"use_beam_search": True},
        ],
        ids=str,
    )
    def test_what_cannot_be_split_goes_to_the_decode_engine_alone(
        self, client: TestClient, engines: Engines, fields: dict[str, Any]
    ) -> None:
        assert not is_split(BODY | fields)
        assert client.post(PATH, json=BODY | fields).is_success
        assert [host for host, *_ in engines.asked] == ["decode"]
        assert engines.body("decode") == BODY | fields

    @pytest.mark.parametrize("fields", [{"n": None}, {"prompt": [1, 2, 3]}, {"messages": []}])
    def test_what_can(self, fields: dict[str, Any]) -> None:
        assert is_split(BODY | fields)

    def test_the_clients_request_is_left_as_it_was(self) -> None:
        before = json.dumps(BODY)
        prefill_body(BODY)
        assert json.dumps(BODY) == before

    def test_engines_take_turns(self, engines: Engines) -> None:
        for name, answer in list(engines.answers.items()):
            engines.answers |= {f"{name}0": answer, f"{name}1": answer}
        urls = [tuple(f"http://{name}{i}" for i in range(2)) for name in ("prefill", "decode")]
        with TestClient(make_app(Options(*urls), httpx.MockTransport(engines))) as client:
            for _ in range(4):
                client.post(PATH, json=BODY)
        hosts = [host for host, *_ in engines.asked]
        assert hosts == ["prefill0", "decode0", "prefill1", "decode1"] * 2


class TestStreaming:
    """Pieces come as the decode engine sends them."""

    def test_events_are_passed_on(self, client: TestClient, engines: Engines) -> None:
        events = [b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"]
        engines.answers["decode"] = lambda _: stream(events)
        response = client.post(PATH, json=BODY | {"stream": True})
        assert response.headers["content-type"] == "text/event-stream"
        assert response.content == b"".join(events)

    def test_a_stream_that_breaks_off_ends_with_an_error(
        self, client: TestClient, engines: Engines
    ) -> None:
        engines.answers["decode"] = lambda _: stream([b"data: 1\n\n"], httpx.ReadError("gone"))
        lines = client.post(PATH, json=BODY | {"stream": True}).text.split("\n\n")
        assert lines[0] == "data: 1"
        error = json.loads(lines[1].removeprefix("data: "))["error"]
        assert error["code"] == 502
        assert "broke off" in error["message"]


class TestErrors:
    """Clients see engines' errors; a prompt that can't be prefilled elsewhere is computed."""

    def test_a_request_that_the_prefill_engine_refuses(
        self, client: TestClient, engines: Engines
    ) -> None:
        error = {"error": {"message": "too long", "code": 400}}
        engines.answers["prefill"] = lambda _: httpx.Response(400, json=error)
        response = client.post(PATH, json=BODY)
        assert (response.status_code, response.json()) == (400, error)
        assert [host for host, *_ in engines.asked] == ["prefill"]

    def test_a_request_that_the_decode_engine_refuses(
        self, client: TestClient, engines: Engines
    ) -> None:
        error = {"error": {"message": "no such model", "code": 404}}
        engines.answers["decode"] = lambda _: httpx.Response(404, json=error)
        response = client.post(PATH, json=BODY)
        assert (response.status_code, response.json()) == (404, error)

    @pytest.mark.parametrize(
        "answer",
        [
            fails(httpx.ConnectError("refused")),
            fails(httpx.ReadTimeout("slow")),
            lambda _: httpx.Response(500, text="broken"),
            lambda _: httpx.Response(200, text="no JSON"),
            lambda _: httpx.Response(200, json={"kv_transfer_params": None}),
        ],
        ids=["refused", "slow", "broken", "nonsense", "nothing"],
    )
    def test_the_decode_engine_computes_what_the_prefill_engine_does_not(
        self, client: TestClient, engines: Engines, answer: Answer
    ) -> None:
        engines.answers["prefill"] = answer
        assert client.post(PATH, json=BODY).json() == {"choices": [{"text": " compare"}]}
        assert engines.body("decode") == BODY

    @pytest.mark.parametrize(
        ("error", "status"),
        [(httpx.ConnectError("refused"), 502), (httpx.ReadTimeout("slow"), 504)],
        ids=["refused", "slow"],
    )
    def test_a_decode_engine_that_does_not_answer(
        self, client: TestClient, engines: Engines, error: Exception, status: int
    ) -> None:
        engines.answers["decode"] = fails(error)
        response = client.post(PATH, json=BODY)
        assert response.status_code == status
        assert DECODE in response.json()["error"]["message"]

    @pytest.mark.parametrize("content", ["", "[1]", "{"])
    def test_a_body_that_is_no_object(
        self, client: TestClient, engines: Engines, content: str
    ) -> None:
        response = client.post(PATH, content=content)
        assert response.status_code == 400
        assert response.json()["error"]["message"] == "The body must be a JSON object."
        assert not engines.asked


class TestEverythingElse:
    """Other paths."""

    def test_models_are_the_decode_engines(self, client: TestClient, engines: Engines) -> None:
        engines.answers["decode"] = lambda _: httpx.Response(200, json={"data": ["demo"]})
        assert client.get("/v1/models").json() == {"data": ["demo"]}

    def test_health_of_all(self, client: TestClient, engines: Engines) -> None:
        response = client.get("/health")
        assert (response.status_code, set(response.json().values())) == (200, {"healthy"})
        engines.answers["prefill"] = fails(httpx.ConnectError("refused"))
        response = client.get("/health")
        assert response.status_code == 503
        assert response.json()[DECODE] == "healthy"
        assert "refused" in response.json()[PREFILL]


def stream(events: list[bytes], error: Exception | None = None) -> httpx.Response:
    async def pieces() -> AsyncIterator[bytes]:
        for event in events:
            yield event
        if error is not None:
            raise error

    headers = {"content-type": "text/event-stream"}
    return httpx.Response(200, headers=headers, content=pieces())

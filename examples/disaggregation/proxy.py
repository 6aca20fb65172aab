"""An OpenAI-compatible proxy in front of engines that prefill and engines that decode.

python examples/disaggregation/proxy.py --prefill http://127.0.0.1:8001 \\
    --decode http://127.0.0.1:8002 --port 8000

A prompt goes to a prefill engine, which computes one token and answers with where its KV is; then
it goes to a decode engine with that, which takes the KV over and generates. The decode engine also
serves alone: requests that can't be split, and all of them while no prefill engine answers.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

_logger = logging.getLogger("proxy")

GENERATION = ("/v1/completions", "/v1/chat/completions")
# What a prefill engine must not do, as it generates one token only.
_DECODES = ("min_tokens", "stream_options", "max_completion_tokens")
# Of one hop, or written anew by the HTTP client and server.
_HOP = frozenset(
    ("connection", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade", "te")
)


@dataclass(frozen=True)
class Options:
    """What the proxy is started with.

    Attributes:
        prefill: URLs of engines, taken in turn.
        decode: likewise.
        connect_timeout: seconds until an engine that doesn't answer counts as gone.
        prefill_timeout: seconds for a prompt.
        decode_timeout: seconds between two pieces of an answer.
    """

    prefill: tuple[str, ...]
    decode: tuple[str, ...]
    connect_timeout: float = 2.0
    prefill_timeout: float = 120.0
    decode_timeout: float = 300.0


class Proxy:
    """Splits requests between engines.

    Attributes:
        options: what it was started with.
        client: connections to the engines.
    """

    def __init__(self, options: Options, client: httpx.AsyncClient) -> None:
        self.options = options
        self.client = client
        self._prefill = itertools.cycle(options.prefill)
        self._decode = itertools.cycle(options.decode)

    async def generate(self, request: Request) -> Response:
        """A completion or chat completion."""
        try:
            body = await request.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return _error(400, "The body must be a JSON object.")
        body.pop("kv_transfer_params", None)  # It names hosts to connect to: not for clients.
        path, headers = request.url.path, _forwarded(request.headers)
        headers.setdefault("x-request-id", uuid4().hex)
        if is_split(body):
            prefilled = await self._prefill_first(path, body, headers)
            if isinstance(prefilled, Response):
                return prefilled
            body = body | prefilled
        return await self._pass_on("POST", path, headers, json=body)

    async def forward(self, request: Request) -> Response:
        """Anything else goes to a decode engine as it is."""
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers = _forwarded(request.headers)
        return await self._pass_on(request.method, path, headers, content=await request.body())

    async def health(self) -> Response:
        """200 if all engines are healthy; else 503, with what is wrong with which."""
        urls = (*self.options.prefill, *self.options.decode)
        states = dict(zip(urls, await asyncio.gather(*map(self._health_of, urls)), strict=True))
        healthy = set(states.values()) == {"healthy"}
        return JSONResponse(states, 200 if healthy else 503)

    async def _prefill_first(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> dict[str, Any] | Response:
        """Where the prompt's KV is, as fields for the decode engine; or the client's error."""
        url = next(self._prefill) + path
        timeout = httpx.Timeout(self.options.prefill_timeout, connect=self.options.connect_timeout)
        try:
            response = await self.client.post(
                url, json=prefill_body(body), headers=headers, timeout=timeout
            )
        except httpx.HTTPError as error:
            _logger.warning("%s: %r; the decode engine computes the prompt.", url, error)
            return {}
        if response.is_client_error:
            return _passed(response, response.content)
        if response.is_server_error:
            _logger.warning(
                "%s: HTTP %d: %.300s; the decode engine computes the prompt.",
                *(url, response.status_code, response.text),
            )
            return {}
        try:
            transfer = response.json().get("kv_transfer_params")
        except ValueError as error:
            _logger.warning("%s: %r; the decode engine computes the prompt.", url, error)
            return {}
        return {"kv_transfer_params": transfer} if transfer else {}

    async def _pass_on(
        self, method: str, path: str, headers: Mapping[str, str], **content: Any
    ) -> Response:
        """A decode engine's answer, as it comes."""
        url = next(self._decode) + path
        timeout = httpx.Timeout(self.options.decode_timeout, connect=self.options.connect_timeout)
        request = self.client.build_request(
            method, url, headers=dict(headers), timeout=timeout, **content
        )
        try:
            response = await self.client.send(request, stream=True)
        except httpx.TimeoutException as error:
            return _error(504, f"The decode engine {url} didn't answer in time: {error!r}.")
        except httpx.HTTPError as error:
            return _error(502, f"The decode engine {url} can't be reached: {error!r}.")
        return StreamingResponse(
            _pieces(response, url),
            response.status_code,
            _forwarded(response.headers),
            background=BackgroundTask(response.aclose),
        )

    async def _health_of(self, url: str) -> str:
        try:
            response = await self.client.get(f"{url}/health", timeout=self.options.connect_timeout)
        except httpx.HTTPError as error:
            return repr(error)
        return "healthy" if response.is_success else f"HTTP {response.status_code}"


def is_split(body: Mapping[str, Any]) -> bool:
    """Whether one engine may prefill what another one decodes.

    Not with several prompts or several answers, as the first to take the KV over lets go of it; not
    where the prompt's own logprobs are wanted, which only the engine that computes it has.
    """
    prompt = body.get("prompt", "")
    single = isinstance(prompt, str) or (
        isinstance(prompt, list) and all(isinstance(token, int) for token in prompt)
    )
    many = (body.get("n") or 1) > 1 or (body.get("best_of") or 1) > 1
    looks_back = body.get("echo") or body.get("prompt_logprobs") is not None
    return single and not many and not looks_back and not body.get("use_beam_search")


def prefill_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request for the prefill engine: one token, whose KV is kept to be taken over."""
    kept = {name: value for name, value in body.items() if name not in _DECODES}
    return kept | {
        "max_tokens": 1,
        "stream": False,
        "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False},
    }


async def _pieces(response: httpx.Response, url: str) -> AsyncIterator[bytes]:
    """The body; if it breaks off, a streaming client gets an error event, others a broken body."""
    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx.HTTPError as error:
        _logger.error("%s broke off: %r", url, error)
        if "text/event-stream" not in response.headers.get("content-type", ""):
            raise
        event = _error(502, f"The decode engine {url} broke off: {error!r}.")
        yield b"data: " + bytes(event.body) + b"\n\n"


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP}


def _passed(response: httpx.Response, content: bytes) -> Response:
    headers = _forwarded(response.headers)
    headers.pop("content-encoding", None)  # `content` is decoded already.
    return Response(content, response.status_code, headers)


def _error(status: int, message: str) -> JSONResponse:
    """An error in the form of the OpenAI API."""
    kind = "BadRequestError" if status < 500 else "UpstreamError"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": error}, status)


def make_app(options: Options, transport: httpx.AsyncBaseTransport | None = None) -> FastAPI:
    """The server; `transport` stands in for the network in tests."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        # No proxy between this one and its engines.
        client = httpx.AsyncClient(limits=limits, trust_env=False, transport=transport)
        async with client:
            app.state.proxy = Proxy(options, client)
            yield

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> Response:
        return await app.state.proxy.health()

    async def generate(request: Request) -> Response:
        return await app.state.proxy.generate(request)

    for path in GENERATION:
        app.add_api_route(path, generate, methods=["POST"], response_model=None)

    @app.api_route("/{path:path}", methods=["GET", "POST"], response_model=None)
    async def forward(request: Request) -> Response:
        return await app.state.proxy.forward(request)

    return app


def main() -> None:
    """See --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prefill", action="append", required=True, help="URL; may be repeated")
    parser.add_argument("--decode", action="append", required=True, help="URL; may be repeated")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    for name in ("connect_timeout", "prefill_timeout", "decode_timeout"):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=float, default=getattr(Options, name), help="seconds")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    options = Options(
        tuple(url.rstrip("/") for url in given.prefill),
        tuple(url.rstrip("/") for url in given.decode),
        given.connect_timeout,
        given.prefill_timeout,
        given.decode_timeout,
    )
    uvicorn.run(make_app(options), host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()

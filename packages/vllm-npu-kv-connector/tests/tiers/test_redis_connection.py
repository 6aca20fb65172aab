"""A server that can't be used is refused at the start, in words that name it and no secret."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_npu_kv_connector.tiers.redis_connection import RedisAddress, connect
from vllm_npu_kv_connector.tiers.redis_store import RedisStore
from vllm_npu_runtime.errors import ConfigurationError

from .blocks import MODEL
from .redis_server import RedisServer, make_certificates, running

SECRET = "p4ss/w@rd"
IN_URL = "p4ss%2Fw%40rd"


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that wants a password."""
    with running(tmp_path, "--requirepass", SECRET) as started:
        yield started


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, str]:
    return make_certificates(tmp_path)


@pytest.fixture
def tls(tmp_path: Path, certificates: dict[str, str]) -> Iterator[RedisServer]:
    """A server that speaks TLS, and wants a certificate of its clients."""
    files = {
        "cert-file": certificates["cert"],
        "key-file": certificates["key"],
        "ca-cert-file": certificates["ca"],
        "auth-clients": "yes",
    }
    with running(tmp_path, tls=files) as started:
        yield started


def refusal(address: RedisAddress) -> str:
    """Why it can't be used."""
    with pytest.raises(ConfigurationError) as error:
        connect(address)
    assert SECRET not in str(error.value) and IN_URL not in str(error.value)
    return str(error.value)


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = refusal(RedisAddress(f"redis://user:{IN_URL}@127.0.0.1:{port}/0"))
    assert f"url='redis://user@127.0.0.1:{port}/0'" in text
    assert "refused" in text and "Start the server" in text


def test_a_server_that_does_not_answer(server: RedisServer) -> None:
    server.signal(signal.SIGSTOP)
    began = time.monotonic()
    text = refusal(RedisAddress(server.url, timeout=0.2, connect_timeout=0.2))
    assert "imeout" in text
    assert time.monotonic() - began < 2


def test_something_that_is_no_redis_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert "no usable answer" in refusal(
            RedisAddress(f"redis://127.0.0.1:{port}/0", timeout=0.2)
        )


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_wrong_password_and_none(locked: RedisServer, password: str | None) -> None:
    text = refusal(RedisAddress(locked.url, password=password))
    assert "password" in text and "`requirepass`" in text


def test_the_right_password_as_an_option_or_in_the_url(locked: RedisServer) -> None:
    connect(RedisAddress(locked.url, password=SECRET))
    connect(RedisAddress(locked.url.replace("//", f"//:{IN_URL}@")))


def test_the_right_password_in_the_variable_of_redis_cli(
    locked: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDISCLI_AUTH", SECRET)
    connect(RedisAddress(locked.url))
    monkeypatch.setenv("REDISCLI_AUTH", "wrong")
    connect(RedisAddress(locked.url, password=SECRET))
    connect(RedisAddress(locked.url.replace("//", f"//:{IN_URL}@")))


def test_a_user_name(server: RedisServer) -> None:
    server.client().execute_command("ACL", "SETUSER", "kv", "on", f">{SECRET}", "~*", "+@all")
    connect(RedisAddress(server.url, username="kv", password=SECRET))
    assert "user name or password" in refusal(
        RedisAddress(server.url, username="kw", password=SECRET)
    )


def test_valkeys_own_names_for_urls(server: RedisServer) -> None:
    connect(RedisAddress(server.url.replace("redis", "valkey")))


def test_tls_with_certificates_on_both_sides(
    tls: RedisServer, certificates: dict[str, str]
) -> None:
    mine = {"certfile": certificates["cert"], "keyfile": certificates["key"]}
    connect(RedisAddress(tls.url, ca_certs=certificates["ca"], **mine))
    assert "ertificate" in refusal(RedisAddress(tls.url, ca_certs=certificates["ca"]))
    assert "certificate verify failed" in refusal(RedisAddress(tls.url, **mine))


def test_tls_to_a_server_under_another_name(tls: RedisServer, certificates: dict[str, str]) -> None:
    text = refusal(
        RedisAddress(
            tls.url.replace("127.0.0.1", "localhost"),
            ca_certs=certificates["ca"],
            certfile=certificates["cert"],
            keyfile=certificates["key"],
        )
    )
    assert "mismatch" in text


def test_no_tls_to_a_server_that_wants_it_and_the_reverse(
    tls: RedisServer, server: RedisServer
) -> None:
    assert "rediss://" in refusal(RedisAddress(tls.url.replace("rediss", "redis")))
    text = refusal(RedisAddress(server.url.replace("redis", "rediss"), connect_timeout=0.3))
    assert "one that doesn't, redis://" in text


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (RedisAddress("reddis://host"), r"Unknown scheme of url 'reddis'.* 'rediss?'"),
        (RedisAddress("redis://h:port/0"), "Port could not be cast"),
        (RedisAddress("redis://h/zero"), "'zero' is not the number of a database"),
        (RedisAddress(f"redis://h/0?password={IN_URL}"), "has password after the database"),
        (RedisAddress(f"redis://:{IN_URL}@h", password="b"), "`password` is given .* Keep one"),
        (RedisAddress("redis://h", ca_certs="ca.pem"), "without TLS, but with ca_certs"),
        (RedisAddress("rediss://h", certfile="c.pem"), "certfile and keyfile need each other"),
        (
            RedisAddress("rediss://h", ca_certs="none.pem"),
            r"ca_certs='none\.pem': there is no such",
        ),
    ],
)
def test_an_address_that_makes_no_sense(address: RedisAddress, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as error:
        connect(address)
    assert IN_URL not in str(error.value)


def test_a_block_that_is_too_large_for_a_server() -> None:
    with pytest.raises(ConfigurationError, match="Set a smaller block_size"):
        RedisStore(RedisAddress("redis://nowhere"), MODEL, block_bytes=512 << 20)


def test_secrets_are_not_in_what_is_shown() -> None:
    address = RedisAddress(f"redis://user:{IN_URL}@host:1/0", password=SECRET)
    assert address.shown == "redis://user@host:1/0"
    assert IN_URL not in repr(address) and SECRET not in repr(address)

"""Connecting to a Redis or Valkey server, and what its errors mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from vllm_npu_kv_connector.tiers.store import Outage, StoreUnavailableError
from vllm_npu_runtime.errors import ConfigurationError

# Valkey has names of its own for the same protocol.
_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
}
PASSWORD_VARIABLE = "REDISCLI_AUTH"
"""Where redis-cli takes the password from, too: it shows in no list of processes."""

_NOT_ALLOWED = (
    redis.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.NoPermissionError,
)


@dataclass(frozen=True)
class RedisAddress:
    """Where a server is, and how to get in.

    Attributes:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, or ``valkey://`` and
            ``valkeys://``; with host, port and number of the database, and no query.
        username: for servers with access control lists; may stand in the URL instead.
        password: may stand in the URL instead, or in the variable `REDISCLI_AUTH`.
        ca_certs: file of certificates that the server's must go back to; the system's if None.
        certfile: file with a certificate to show to the server.
        keyfile: file with its key.
        connect_timeout: seconds to wait for a connection.
        timeout: seconds to wait for an answer, or the next part of one.
    """

    url: str = field(repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    connect_timeout: float = 2.0
    timeout: float = 2.0

    @property
    def shown(self) -> str:
        """The URL without secrets."""
        parts = urlsplit(self.url)
        user, at, host = parts.netloc.rpartition("@")
        name = user.partition(":")[0]
        return urlunsplit((parts.scheme, f"{name}{at}{host}" if name else host, parts.path, "", ""))


def connect(address: RedisAddress) -> redis.Redis:
    """A client of a server that answers and lets us in.

    Raises:
        ConfigurationError: it can't be reached, doesn't let us in, or the address makes no sense.
    """
    client = redis.Redis.from_url(_url(address), **_options(address))
    try:
        client.ping()
    except _NOT_ALLOWED as error:
        raise ConfigurationError(
            f"url='{address.shown}': the server refused the user name or password ({error}). "
            "Set `username` and `password` to what its `requirepass` or `ACL` says."
        ) from None
    except (redis.RedisError, OSError) as error:
        raise ConfigurationError(
            f"url='{address.shown}': no usable answer ({_one_line(error)}). Start the server or "
            "name another. One that speaks TLS wants a URL with rediss:// (and `ca_certs`, unless "
            "a well-known authority signed its certificate); one that doesn't, redis://."
        ) from None
    return client


@contextmanager
def outages(refused: Outage = Outage.REFUSED) -> Iterator[None]:
    """Turns errors of the client and the server into what stores raise.

    Args:
        refused: what it is if the server refuses the command.

    Raises:
        StoreUnavailableError: there was one.
    """
    try:
        yield
    except redis.TimeoutError as error:
        raise StoreUnavailableError(Outage.TIMEOUT, _one_line(error)) from error
    except redis.exceptions.OutOfMemoryError as error:
        why = f"{_one_line(error)} (raise `maxmemory`, or set `maxmemory-policy` to allkeys-lru)"
        raise StoreUnavailableError(Outage.FULL, why) from error
    except redis.exceptions.ReadOnlyError as error:
        raise StoreUnavailableError(Outage.READ_ONLY, _one_line(error)) from error
    except (*_NOT_ALLOWED, redis.ResponseError) as error:
        raise StoreUnavailableError(refused, _one_line(error)) from error
    except (redis.RedisError, OSError) as error:
        raise StoreUnavailableError(Outage.CONNECTION, _one_line(error)) from error


def _url(address: RedisAddress) -> str:
    parts = urlsplit(address.url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        raise ConfigurationError.unknown("scheme of url", parts.scheme, _SCHEMES)
    if parts.query or parts.fragment:
        names = ", ".join(name for name, _ in parse_qsl(parts.query)) or "a fragment"
        raise ConfigurationError(
            f"url='{address.shown}': has {names} after the database, which is not used. Set the "
            "tier's options instead."
        )
    try:
        in_url = {"username": parts.username, "password": parts.password, "port": parts.port}
    except ValueError as error:
        raise ConfigurationError(f"url='{address.shown}': {error}.") from None
    for name in ("username", "password"):
        if in_url[name] and getattr(address, name):
            raise ConfigurationError(
                f"`{name}` is given in the url '{address.shown}' and as an option. Keep one."
            )
    database = parts.path.strip("/")
    if scheme != "unix" and database and not database.isdecimal():
        raise ConfigurationError(
            f"url='{address.shown}': '{database}' is not the number of a database. Write /0."
        )
    return urlunsplit(parts._replace(scheme=scheme))


def _options(address: RedisAddress) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_timeout": address.timeout,
        "socket_connect_timeout": address.connect_timeout,
        # A circuit breaker decides when to try again. (Connections that died while they lay idle
        # are replaced before they are used.)
        "retry": Retry(NoBackoff(), 0),
        "socket_read_size": 1 << 18,
        "protocol": 2,
        "client_name": "vllm-npu-kv",
    }
    if address.username:
        options["username"] = address.username
    if password := address.password or os.environ.get(PASSWORD_VARIABLE):
        options["password"] = password  # one in the URL comes first
    tls = {
        "ca_certs": address.ca_certs,
        "certfile": address.certfile,
        "keyfile": address.keyfile,
    }
    given = [name for name, value in tls.items() if value]
    if _SCHEMES[urlsplit(address.url).scheme] != "rediss":
        if given:
            raise ConfigurationError(
                f"url='{address.shown}': without TLS, but with {', '.join(given)}. Begin the URL "
                "with rediss://, or leave them out."
            )
        return options
    if bool(address.certfile) != bool(address.keyfile):
        raise ConfigurationError(
            f"url='{address.shown}': certfile and keyfile need each other. Set both or none."
        )
    for name in given:
        if not os.access(tls[name] or "", os.R_OK):
            raise ConfigurationError(
                f"{name}='{tls[name]}': there is no such file, or the user of the engine can't "
                "read it. Name one with certificates in PEM format."
            )
    options["ssl_ca_certs"] = address.ca_certs
    options["ssl_certfile"] = address.certfile
    options["ssl_keyfile"] = address.keyfile
    return options


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""A Redis server of a test's own, and certificates for it."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.backoff import ConstantBackoff
from redis.retry import Retry


class RedisServer:
    """On a free port of this machine; it keeps nothing on disk."""

    def __init__(self, directory: Path, *options: str, tls: dict[str, str] | None = None) -> None:
        self.binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if self.binary is None:
            pytest.fail(
                "These tests need a Redis server: install the package redis-server "
                "(apt-get install redis-server) or valkey-server."
            )
        self._directory = directory
        self._options = options
        self._tls = tls or {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"{'rediss' if tls else 'redis'}://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        port = ["--port", "0", "--tls-port"] if self._tls else ["--port"]
        command = [self.binary, *port, str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self._directory)]
        command += [word for name in self._tls for word in (f"--tls-{name}", self._tls[name])]
        self._process = subprocess.Popen([*command, *self._options], stdout=subprocess.DEVNULL)
        wait = Retry(ConstantBackoff(0.05), 200, supported_errors=(OSError,))
        wait.call_with_retry(
            lambda: socket.create_connection(("127.0.0.1", self.port)).close(), lambda _: None
        )

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once; all that it kept is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self, **options: object) -> redis.Redis:
        """To look at what is in it, and change that."""
        return redis.Redis.from_url(self.url, **options)  # type: ignore[arg-type]


@contextmanager
def running(directory: Path, *options: str, tls: dict[str, str] | None = None) -> Iterator:
    """A server that is killed in the end."""
    server = RedisServer(directory, *options, tls=tls)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def make_certificates(directory: Path) -> dict[str, str]:
    """An authority, and a certificate of it for 127.0.0.1 with its key; paths of the files."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("authority", authority_key, "authority", authority_key)
    server = _certificate("server", server_key, "authority", authority_key)
    files = {
        "ca": authority.public_bytes(serialization.Encoding.PEM),
        "cert": server.public_bytes(serialization.Encoding.PEM),
        "key": server_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    }
    for name, content in files.items():
        (directory / f"{name}.pem").write_bytes(content)
    return {name: str(directory / f"{name}.pem") for name in files}


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    local = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([local]), critical=False)
        .add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )

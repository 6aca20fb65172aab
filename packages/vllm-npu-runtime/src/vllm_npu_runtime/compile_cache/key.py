"""What compiled graphs depend on. Another configuration has another key, and its own graphs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime

from vllm_npu_runtime import __version__
from vllm_npu_runtime.compile_cache.records import Record
from vllm_npu_runtime.errors import ConfigurationError

FORMAT = 1
"""Of the files in the cache, the vendors' own aside. Change it together with them."""

KEY_FILE = "key.json"
DIGITS = 32


@dataclass(frozen=True)
class CacheKey:
    """Everything that the graphs of one configuration depend on.

    Attributes:
        parts: in clear, for JSON; strings "model" and "device" are shown to people.
    """

    parts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Of the parts, this package's version and the cache's format: the directory's name.

        Raises:
            ConfigurationError: the parts hold what JSON doesn't.
        """
        return digest_of(FORMAT, __version__, self.parts)


class KeyRecord(Record):
    """`key.json`: says what a directory of graphs is for. Nothing is decided by it.

    Attributes:
        format: of the cache.
        suite: version that wrote it.
        created: when.
        parts: as in `CacheKey`.
    """

    format: int
    suite: str
    created: AwareDatetime
    parts: dict[str, Any]

    @classmethod
    def of(cls, key: CacheKey) -> KeyRecord:
        """The record of a key, made now."""
        parts = json.loads(canonical(key.parts))
        return cls(format=FORMAT, suite=__version__, created=datetime.now(UTC), parts=parts)

    @property
    def digest(self) -> str:
        """The directory's name that belongs to it."""
        return digest_of(self.format, self.suite, self.parts)


def digest_of(version: int, suite: str, parts: Mapping[str, Any]) -> str:
    """Hexadecimal digits that stand for parts, written in a format by a version of the suite."""
    whole = canonical({"format": version, "suite": suite, "parts": parts})
    return hashlib.sha256(whole).hexdigest()[:DIGITS]


def canonical(value: Any) -> bytes:
    """JSON in one way only: the same for mappings of any order.

    Raises:
        ConfigurationError: a value that JSON doesn't have.
    """
    try:
        return json.dumps(
            dict(value), sort_keys=True, separators=(",", ":"), allow_nan=False
        ).encode()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The compile cache's key can't be JSON: {error}.") from error

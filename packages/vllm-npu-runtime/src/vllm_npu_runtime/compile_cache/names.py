"""File names in the cache, for any names of graphs.

A graph's own name holds no ".": whatever has one there is a lock, the key or a leftover.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path
from urllib.parse import quote

from vllm_npu_runtime.errors import ConfigurationError

LONGEST = 120
_TOKEN = "[0-9a-f]{16}"
_LEFTOVER = re.compile(rf"\.[^./]+\.{_TOKEN}\.tmp|~{_TOKEN}\.tmp")
_LOCK = re.compile(r"[^./]+\.lock")


def file_name(graph: str) -> str:
    """A file name that no other graph has.

    Raises:
        ConfigurationError: the name is empty.
    """
    if not graph:
        raise ConfigurationError("A graph without a name can't be kept in the compile cache.")
    # "~" marks names that were cut; quote leaves both as they are.
    quoted = quote(graph, safe="=,+").replace(".", "%2E").replace("~", "%7E")
    if len(quoted) <= LONGEST:
        return quoted
    return f"{quoted[:LONGEST]}~{hashlib.sha256(graph.encode()).hexdigest()[:32]}"


def beside(path: Path) -> Path:
    """A new name beside a graph's or a key's directory, that is swept up if it stays behind."""
    return path.with_name(f".{path.name}.{_token()}.tmp")


def passing(directory: Path) -> Path:
    """A new name for a file that is about to get its real one."""
    return directory / f"~{_token()}.tmp"


def belongs_to(leftover: str, name: str) -> bool:
    """Whether `beside` made `leftover` from a path of that name."""
    return is_leftover(leftover) and leftover.startswith(f".{name}.")


def is_leftover(name: str) -> bool:
    """Whether it is a name that `beside` or `passing` makes."""
    return _LEFTOVER.fullmatch(name) is not None


def is_lock(name: str) -> bool:
    """Whether it is a name of a graph's lock."""
    return _LOCK.fullmatch(name) is not None


def _token() -> str:
    return secrets.token_hex(8)

"""The key that stands for a configuration, and the names of its graphs' files."""

from __future__ import annotations

import math
import re

import pytest

from vllm_npu_runtime.compile_cache import CacheKey, key
from vllm_npu_runtime.compile_cache.names import file_name, is_leftover, is_lock
from vllm_npu_runtime.errors import ConfigurationError

PARTS = {"model": {"name": "tiny", "layers": [1, 2]}, "torch": "2.13.0", "rank": None}


def test_a_digest_is_32_hexadecimal_digits() -> None:
    assert re.fullmatch("[0-9a-f]{32}", CacheKey(PARTS).digest)


def test_the_order_of_parts_does_not_matter() -> None:
    other = {name: PARTS[name] for name in reversed(PARTS)}
    other["model"] = {"layers": [1, 2], "name": "tiny"}
    assert CacheKey(other).digest == CacheKey(PARTS).digest


@pytest.mark.parametrize(
    "changed",
    [
        {"torch": "2.13.1"},
        {"model": {"name": "tiny", "layers": [2, 1]}},
        {"rank": 0},
        {"rank": False},
        {"further": None},
    ],
)
def test_every_part_matters(changed: dict[str, object]) -> None:
    assert CacheKey(PARTS | changed).digest != CacheKey(PARTS).digest


@pytest.mark.parametrize(("constant", "other"), [("FORMAT", 2), ("__version__", "9.9")])
def test_the_format_and_the_suites_version_matter(
    constant: str, other: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = CacheKey(PARTS).digest
    monkeypatch.setattr(key, constant, other)
    assert CacheKey(PARTS).digest != before


@pytest.mark.parametrize("part", [object(), math.nan, {1, 2}])
def test_parts_that_json_lacks_are_refused(part: object) -> None:
    with pytest.raises(ConfigurationError, match="can't be JSON"):
        _ = CacheKey({"part": part}).digest


NAMES = [
    "tokens=64",
    "draft:tokens=64",
    "draft_tokens=64",
    "draft%3Atokens=64",
    "a/b",
    "..",
    ".",
    "../x",
    "x.lock",
    "key.json",
    "~0123456789abcdef.tmp",
    "größe",
    "a" * 120,
    "a" * 121,
    "a" * 122,
    "a" * 5000,
    " ",
    "\n",
    "\0",
]


def test_graphs_have_file_names_of_their_own_that_stay_in_the_directory() -> None:
    files = [file_name(name) for name in NAMES]
    assert len(set(files)) == len(NAMES)
    assert all(re.fullmatch("[A-Za-z0-9=,+_~%-]{1,200}", file) for file in files)


def test_no_graph_has_the_name_of_a_lock_or_leftover() -> None:
    assert not any(is_lock(file_name(name)) or is_leftover(file_name(name)) for name in NAMES)


def test_usual_names_stay_readable() -> None:
    assert file_name("tokens=64") == "tokens=64"


def test_a_graph_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match="without a name"):
        file_name("")

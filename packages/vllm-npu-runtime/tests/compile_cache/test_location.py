"""Where the compile cache is, and whether it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_npu_runtime.compile_cache import cache_directory, enabled
from vllm_npu_runtime.errors import ConfigurationError


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({"HOME": "/h"}, "/h/.cache/vllm/npu"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/vllm/npu"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "VLLM_CACHE_ROOT": "/v"}, "/v/npu"),
        ({"HOME": "/h", "VLLM_CACHE_ROOT": "~/v"}, "/h/v/npu"),
        ({"HOME": "/h", "VLLM_CACHE_ROOT": ""}, "/h/.cache/vllm/npu"),
    ],
)
def test_it_lies_in_the_root_of_vllms_caches(environ: dict[str, str], where: str) -> None:
    assert cache_directory(environ) == Path(where)


@pytest.mark.parametrize(
    ("value", "used"),
    [(None, True), ("0", True), ("false", True), ("1", False), ("true", False), ("2", False)],
)
def test_a_variable_switches_it_off(value: str | None, used: bool) -> None:
    assert enabled({} if value is None else {"VLLM_DISABLE_COMPILE_CACHE": value}) is used


@pytest.mark.parametrize("value", ["yes", ""])
def test_other_values_of_the_variable_are_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"VLLM_DISABLE_COMPILE_CACHE='{value}'"):
        enabled({"VLLM_DISABLE_COMPILE_CACHE": value})


def test_it_is_the_processes_own_environment_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/v")
    monkeypatch.setenv("VLLM_DISABLE_COMPILE_CACHE", "1")
    assert cache_directory() == Path("/v/npu") and not enabled()

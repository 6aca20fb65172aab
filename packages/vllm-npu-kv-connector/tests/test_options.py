"""Options: what is understood, and what is refused with the fix."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from vllm_npu_kv_connector import host_memory
from vllm_npu_kv_connector.options import ConnectorOptions
from vllm_npu_runtime.errors import ConfigurationError

DISK = {"type": "fs", "root_dir": "/somewhere", "max_bytes": "2GiB"}
REDIS = {"type": "redis", "url": "redis://localhost"}


def parsed(**given: Any) -> ConnectorOptions:
    return ConnectorOptions.parse({"cpu_bytes_to_use": 1024, **given})


@pytest.mark.parametrize(("given", "wanted"), [(4096, 4096), ("4KiB", 4096), ("3 MB", 3_000_000)])
def test_bytes_as_numbers_and_with_units(given: Any, wanted: int) -> None:
    assert parsed(cpu_bytes_to_use=given).cpu_bytes_to_use == wanted


def test_vllm_is_told_its_own_names() -> None:
    options = parsed(eviction_policy="arc", block_size=64, secondary_tiers=[DISK, REDIS])
    given = options.for_vllm("abc")
    assert given["spec_name"] == "NPUOffloadingSpec"
    assert given["npu_identity"] == "abc"
    assert (given["cpu_bytes_to_use"], given["block_size"]) == (1024, 64)
    assert given["eviction_policy"] == "arc"
    disk, redis = given["secondary_tiers"]
    assert (disk["type"], disk["root_dir"]) == ("npu_fs", "/somewhere")
    assert disk["max_bytes"] == 2 << 30
    assert (redis["type"], redis["url"]) == ("npu_redis", "redis://localhost")
    assert "load" not in given


def test_valkey_is_spoken_to_as_redis() -> None:
    tiers = parsed(secondary_tiers=[{**REDIS, "type": "valkey"}]).for_vllm("")["secondary_tiers"]
    assert tiers[0]["type"] == "npu_redis"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cpu_bytes": 5}, "cpu_bytes: unknown option. Did you mean 'cpu_bytes_to_use'?"),
        ({"cpu_bytes_to_use": 0}, "cpu_bytes_to_use 0: Input should be greater than 0"),
        ({"cpu_bytes_to_use": "much"}, "cpu_bytes_to_use 'much'"),
        ({"eviction_policy": "fifo"}, "eviction_policy 'fifo': Input should be 'lru' or 'arc'"),
        ({"block_size": 16, "blocks_per_chunk": 2}, "block_size or blocks_per_chunk, not both"),
        ({"load": "sometimes"}, "load 'sometimes'"),
        (
            {"secondary_tiers": [{"type": "radis"}]},
            "unknown tier type 'radis'. Did you mean 'redis'",
        ),
        ({"secondary_tiers": [{"type": "disk"}]}, "tier type 'disk'. Did you mean 'fs'?"),
        ({"secondary_tiers": [{"root_dir": "/x"}]}, "unknown tier type None"),
        ({"secondary_tiers": [{**DISK, "max_byte": 1}]}, "Did you mean 'max_bytes'"),
        ({"secondary_tiers": [{**DISK, "max_bytes": 0}]}, "max_bytes 0: Input should be greater"),
        ({"secondary_tiers": [{"type": "fs", "max_bytes": 9}]}, "root_dir: it must be given"),
        ({"secondary_tiers": [{"type": "redis"}]}, "secondary_tiers[0].url: it must be given"),
        ({"secondary_tiers": [{**REDIS, "timeout": 0}]}, "timeout 0: Input should be greater"),
    ],
)
def test_a_refusal_names_the_option_and_what_is_allowed(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parsed(**given)
    assert message in str(caught.value)
    assert str(caught.value).startswith("kv_connector_extra_config")


def test_host_memory_suits_the_host_where_nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of memory, and no more than half of where it lies."""
    sizes = SimpleNamespace(f_blocks=6 << 18, f_frsize=4096)  # 6 GiB
    monkeypatch.setattr(os, "statvfs", lambda _: sizes)
    for memory, wanted in ((16 << 30, 2 << 30), (64 << 30, 3 << 30)):
        monkeypatch.setattr(host_memory, "_limit", lambda memory=memory: memory)
        total = SimpleNamespace(total=256 << 30)
        monkeypatch.setattr(psutil, "virtual_memory", lambda total=total: total)
        options = ConnectorOptions.parse({})
        assert options.cpu_bytes_to_use == wanted
        assert options.for_vllm("")["cpu_bytes_to_use"] == wanted


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(host_memory, "_CGROUP", limit)
    everything = psutil.virtual_memory().total
    for text, wanted in ((str(1 << 30), 1 << 30), ("max", everything)):
        limit.write_text(f"{text}\n")
        assert host_memory._limit() == wanted


def test_several_problems_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parsed(cpu_bytes_to_use=-1, load="no", secondary_tiers=[{"type": "tape"}])
    assert len(str(caught.value).splitlines()) == 3


def test_a_password_is_never_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parsed(secondary_tiers=[{**REDIS, "url": 5, "password": ["hush"]}])
    assert "hush" not in str(caught.value)

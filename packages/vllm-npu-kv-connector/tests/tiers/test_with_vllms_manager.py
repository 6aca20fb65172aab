"""Behind vLLM's own manager of tiers, blocks come back as they were, whatever fails."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_npu_kv_connector.tiers.manager import DirectoryTier, RedisTier

from .primary import BLOCK, SPEC, Tiered
from .redis_server import RedisServer

Make = Callable[..., Tiered]
NUMBERS = range(6)


@pytest.fixture
def engines() -> Iterator[Make]:
    """Engines' managers of tiers, that are closed in the end."""
    made: list[Tiered] = []

    def make(root: Path, server: RedisServer | None = None, chunks: int = 8) -> Tiered:
        def tiers(view: memoryview) -> list:
            disk = DirectoryTier(SPEC, view, "npu_fs", root_dir=str(root), max_bytes=40 * 2 * BLOCK)
            return (
                [disk]
                if server is None
                else [disk, RedisTier(SPEC, view, "npu_redis", url=server.url)]
            )

        made.append(Tiered(chunks, tiers))
        return made[-1]

    yield make
    for each in made:
        each.close()


def _files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.kv"))


def test_blocks_come_back_from_disk(tmp_path: Path, engines: Make) -> None:
    engine = engines(tmp_path / "kv")
    engine.store(NUMBERS)
    assert len(_files(tmp_path)) == len(NUMBERS)
    engine.forget()
    assert engine.load([*NUMBERS, 77]) == [True] * len(NUMBERS) + [False]


def test_blocks_come_back_after_a_restart(tmp_path: Path, engines: Make) -> None:
    engines(tmp_path / "kv").store(NUMBERS)
    assert engines(tmp_path / "kv").load(NUMBERS) == [True] * len(NUMBERS)


def test_blocks_come_back_from_a_server_to_another_machine(
    tmp_path: Path, server: RedisServer, engines: Make
) -> None:
    engines(tmp_path / "here", server).store(NUMBERS)
    there = engines(tmp_path / "there", server)
    assert there.load(NUMBERS) == [True] * len(NUMBERS)


def test_damaged_blocks_are_misses_and_are_stored_anew(tmp_path: Path, engines: Make) -> None:
    engine = engines(tmp_path / "kv")
    engine.store(NUMBERS)
    for path in _files(tmp_path)[:3]:
        with path.open("r+b") as file:
            file.seek(random.Random(path.name).randrange(os.path.getsize(path)))
            file.write(b"\x5a\xa5")
    engine.forget()
    hits = engine.load(NUMBERS)
    assert hits.count(False) == 3
    engine.store(NUMBERS)
    engine.forget()
    assert engine.load(NUMBERS) == [True] * len(NUMBERS)


def test_a_server_that_dies_costs_its_blocks_only(
    tmp_path: Path, server: RedisServer, engines: Make
) -> None:
    engine = engines(tmp_path / "kv", server)
    engine.store(NUMBERS)
    server.kill()
    engine.forget()
    assert engine.load([*NUMBERS, 77]) == [True] * len(NUMBERS) + [False]
    engine.store([10, 11])
    engine.forget()
    assert engine.load([10, 11]) == [True, True]


def test_more_blocks_than_any_tier_has_room_for(tmp_path: Path, engines: Make) -> None:
    engine, chance = engines(tmp_path / "kv"), random.Random(1)
    for _ in range(60):
        first = chance.randrange(3, 100)
        engine.store(range(first, first + 5))
        engine.load(range(first - 3, first + 3))
        assert len(_files(tmp_path)) <= 40
    assert len(_files(tmp_path)) > 30


def test_two_engines_with_a_directory_in_common(tmp_path: Path, engines: Make) -> None:
    both = [engines(tmp_path / "kv") for _ in range(2)]
    both[0].store([1, 2, 3])
    both[1].store([2, 3, 4])
    assert len(_files(tmp_path)) == 4
    for engine in both:
        engine.forget()
        assert engine.load([1, 2, 3, 4]) == [True] * 4

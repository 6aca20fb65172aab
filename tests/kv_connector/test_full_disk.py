"""A disk that fills up, or becomes read-only, while an engine serves."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.asking import ask, expected, greedy, tokens_of
from tests.kv_connector.engines import connected, disk, forget, metric
from tests.prompts import mixed_prompts

if TYPE_CHECKING:
    from tests.conftest import Engines

NEW = 8
UNAVAILABLE = "vllm:kv_offload_npu_unavailable"


def _mount(place: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"{options},mode=0700", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs the right to (CAP_SYS_ADMIN)")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own, in memory, smaller than the tier's limit."""
    place = tmp_path_factory.mktemp("disk")
    _mount(place, "size=1m")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def llm(engines: Engines, place: Path) -> Any:
    return connected(engines, "llama", "paged", (disk(place / "kv"),))


@pytest.fixture
def prompts(tiny_model: Callable[[str], Path]) -> Callable[[int], list[list[int]]]:
    """Prompts of which no two rounds have the same."""
    return lambda seed: mixed_prompts(tiny_model("llama"), count=5, longest=300, seed=seed)


def test_a_disk_that_fills_up(
    llm: Any, prompts: Callable[[int], list[list[int]]], tiny_model: Callable[[str], Path]
) -> None:
    """Requests are served as before; what was written before comes back."""
    path, kept = tiny_model("llama"), prompts(300)
    wanted = expected(path, kept, NEW)
    assert greedy(llm, kept, NEW) == wanted
    forget(llm, host=True)
    for seed in range(301, 320):
        more = prompts(seed)
        assert greedy(llm, more, NEW) == expected(path, more, NEW)
        forget(llm, host=True)
        if metric(llm, UNAVAILABLE, reason="full"):
            break
    assert metric(llm, UNAVAILABLE, reason="full") > 0
    outputs = ask(llm, kept, NEW)
    assert tokens_of(outputs) == wanted
    assert sum(output.num_cached_tokens for output in outputs) > 0


def test_a_disk_that_becomes_read_only(
    llm: Any,
    place: Path,
    prompts: Callable[[int], list[list[int]]],
    tiny_model: Callable[[str], Path],
) -> None:
    """It is read as before, and what is new is computed each time."""
    path, kept, new = tiny_model("llama"), prompts(300), prompts(400)
    assert greedy(llm, kept, NEW) == expected(path, kept, NEW)
    forget(llm, host=True)
    _mount(place, "size=1m,remount,ro")
    outputs = ask(llm, kept, NEW)
    assert tokens_of(outputs) == expected(path, kept, NEW)
    assert sum(output.num_cached_tokens for output in outputs) > 0
    for _ in range(2):
        assert greedy(llm, new, NEW) == expected(path, new, NEW)
        forget(llm, host=True)
    assert metric(llm, UNAVAILABLE) > 0

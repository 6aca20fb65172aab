"""What goes wrong outside the device costs time, and never a token."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import engine_process
from tests.asking import ask, expected, greedy, tokens_of
from tests.conftest import CONTRACTS, ENGINE
from tests.kv_connector.engines import OPTIONS, connected, disk, forget, metric, transfer_config
from tests.prompts import mixed_prompts

if TYPE_CHECKING:
    from tests.conftest import Engines

NEW = 8
CORRUPT = "vllm:kv_offload_npu_corrupt_blocks"
UNAVAILABLE = "vllm:kv_offload_npu_unavailable"
Change = Callable[[Path], None]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_version(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8] += 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.stat().st_size > 1000 and path.is_file()]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture
def llm(engines: Engines, root: Path) -> Any:
    return connected(engines, "llama", "paged", (disk(root),))


@pytest.fixture
def prompts(tiny_model: Callable[[str], Path], request: pytest.FixtureRequest) -> list[list[int]]:
    """Other ones for each test."""
    seed = sum(map(ord, request.node.name))
    return mixed_prompts(tiny_model("llama"), count=5, longest=250, seed=seed)


@pytest.mark.parametrize("change", [flip_a_bit, cut_in_half, of_another_version, empty])
def test_damaged_files(
    llm: Any,
    root: Path,
    prompts: list[list[int]],
    tiny_model: Callable[[str], Path],
    change: Change,
) -> None:
    """They are found out, counted, removed, and written anew."""
    wanted = expected(tiny_model("llama"), prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    forget(llm, host=True)
    damaged = files(root)
    assert damaged
    for path in damaged:
        change(path)
    before = metric(llm, CORRUPT)
    assert greedy(llm, prompts, NEW) == wanted
    assert metric(llm, CORRUPT) > before
    forget(llm, host=True)
    outputs = ask(llm, prompts, NEW)
    assert tokens_of(outputs) == wanted
    assert sum(output.num_cached_tokens for output in outputs) > 0


def test_a_directory_that_vanishes(
    llm: Any, root: Path, prompts: list[list[int]], tiny_model: Callable[[str], Path]
) -> None:
    wanted = expected(tiny_model("llama"), prompts, NEW)
    assert greedy(llm, prompts, NEW) == wanted
    forget(llm, host=True)
    for each in root.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    assert greedy(llm, prompts, NEW) == wanted
    forget(llm, host=True)
    assert greedy(llm, prompts, NEW) == wanted


def test_two_engines_on_one_directory(
    engines: Engines, blocks: Path, tiny_model: Callable[[str], Path]
) -> None:
    """Each finds what the other wrote, and the limit is that of both."""
    path = tiny_model("llama")
    limit = 2 << 20
    tier = (disk(blocks, max_bytes=limit),)
    one, other = (connected(engines, "llama", "paged", tier, life=life) for life in (0, 1))
    for seed in range(6):
        prompts = mixed_prompts(path, count=5, longest=300, seed=100 + seed)
        wanted = expected(path, prompts, NEW)
        writer, reader = (one, other) if seed % 2 else (other, one)
        assert greedy(writer, prompts, NEW) == wanted
        forget(writer)
        outputs = ask(reader, prompts, NEW)
        assert tokens_of(outputs) == wanted
        assert sum(output.num_cached_tokens for output in outputs) > 0
        assert sum(each.stat().st_size for each in files(blocks)) <= limit


def test_a_checkpoint_trained_further_reads_nothing_of_the_old_one(
    engines: Engines, blocks: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Same name, same shapes, other weights: their KV would be wrong."""
    import torch
    from safetensors.torch import load_file, save_file

    changed = tmp_path / "llama"
    shutil.copytree(tiny_model("llama"), changed)
    llm = connected(engines, "llama", "paged", (disk(blocks),))
    prompts = mixed_prompts(changed, count=4, longest=200, seed=9)
    assert greedy(llm, prompts, NEW) == expected(tiny_model("llama"), prompts, NEW)
    forget(llm)
    weights = changed / "model.safetensors"
    torch.manual_seed(0)
    tensors = {
        name: tensor + 0.02 * torch.randn_like(tensor)
        for name, tensor in load_file(weights).items()
    }
    save_file(tensors, weights, metadata={"format": "pt"})
    other = engines.of(
        changed,
        "reference",
        kv_transfer_config=transfer_config((disk(blocks),), "changed"),
        additional_config={"npu": CONTRACTS["paged"]},
        **{**ENGINE, **OPTIONS},
    )
    outputs = ask(other, prompts, NEW)
    assert tokens_of(outputs) == expected(changed, prompts, NEW)
    assert not any(output.num_cached_tokens for output in outputs)


def test_weights_are_not_reloaded_under_kv_of_the_old_ones(
    llm: Any, tiny_model: Callable[[str], Path]
) -> None:
    with pytest.raises(Exception, match=r"NPUConnector.*Start the engine anew"):
        llm.collective_rpc("reload_weights", kwargs={"weights_path": str(tiny_model("llama"))})


def test_a_start_that_fails_leaves_no_memory_behind(
    tiny_model: Callable[[str], Path], forks: None
) -> None:
    before = set(Path("/dev/shm").glob("vllm_offload_*"))
    nobody = {"type": "redis", "url": "redis://127.0.0.1:1/0"}
    transfer = transfer_config((nobody,), "nobody")
    options = {**OPTIONS, "kv_transfer_config": transfer}
    done = engine_process.run("reference", tiny_model("llama"), [[1]], 1, **options)
    assert done.returncode != 0
    assert "no usable answer" in done.output
    assert set(Path("/dev/shm").glob("vllm_offload_*")) <= before


@pytest.fixture
def shared(engines: Engines, redis_server: Any) -> Any:
    tier = {"type": "redis", "url": redis_server.url, "timeout": 0.5}
    return connected(engines, "llama", "paged", (tier,))


@pytest.fixture
def stopped(redis_server: Any) -> Iterator[Any]:
    """A server that goes on in the end."""
    yield redis_server
    redis_server.signal(signal.SIGCONT)


def test_a_store_that_does_not_answer(
    shared: Any, stopped: Any, prompts: list[list[int]], tiny_model: Callable[[str], Path]
) -> None:
    wanted = expected(tiny_model("llama"), prompts, NEW)
    assert greedy(shared, prompts, NEW) == wanted
    forget(shared, host=True)
    before = metric(shared, UNAVAILABLE)
    stopped.signal(signal.SIGSTOP)
    assert greedy(shared, prompts, NEW) == wanted
    assert metric(shared, UNAVAILABLE) > before


def test_a_store_that_is_killed_and_comes_back(
    shared: Any, redis_server: Any, prompts: list[list[int]], tiny_model: Callable[[str], Path]
) -> None:
    wanted = expected(tiny_model("llama"), prompts, NEW)
    assert greedy(shared, prompts, NEW) == wanted
    forget(shared, host=True)
    redis_server.kill()
    assert greedy(shared, prompts, NEW) == wanted
    redis_server.start()
    forget(shared, host=True)
    assert greedy(shared, prompts, NEW) == wanted

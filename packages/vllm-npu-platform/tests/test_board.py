"""The board: counters from the worker's process, read by the API server's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_npu_platform.stats.board import HEADER_BYTES, BoardReader, BoardWriter, board_path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return SimpleNamespace(
        instance_id="one", parallel_config=SimpleNamespace(data_parallel_index=0)
    )


def test_what_is_counted_can_be_read(config: Any) -> None:
    path = board_path(config)
    writer, reader = BoardWriter(path, ["steps", "tokens"]), BoardReader(path)
    writer.add("steps")
    writer.add("tokens", 2.5)
    assert reader.read() == {"steps": 1.0, "tokens": 2.5}
    writer.add("steps")
    assert reader.read()["steps"] == 2.0


def test_another_process_reads_it(config: Any) -> None:
    path = board_path(config)
    writer = BoardWriter(path, ["steps"])
    writer.add("steps", 3)
    code = (
        "import sys, pathlib; from vllm_npu_platform.stats.board import BoardReader; "
        "print(BoardReader(pathlib.Path(sys.argv[1])).read())"
    )
    command = [sys.executable, "-c", code, str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "{'steps': 3.0}"


def test_a_board_that_is_not_there_yet_reads_empty(config: Any) -> None:
    reader = BoardReader(board_path(config))
    assert reader.read() == {}
    writer = BoardWriter(board_path(config), ["steps"])
    writer.add("steps")
    assert reader.read() == {"steps": 1.0}


def test_a_closed_board_is_gone_and_its_reader_keeps_the_last_values(config: Any) -> None:
    path = board_path(config)
    writer, reader = BoardWriter(path, ["steps"]), BoardReader(path)
    writer.add("steps")
    reader.read()
    writer.close()
    writer.close()
    assert not path.exists()
    assert reader.read() == {"steps": 1.0}


def test_a_worker_that_starts_again_starts_at_zero(config: Any) -> None:
    path = board_path(config)
    BoardWriter(path, ["steps"]).add("steps", 5)  # Ended without taking its board away.
    BoardWriter(path, ["steps", "tokens"]).add("tokens")
    assert BoardReader(path).read() == {"steps": 0.0, "tokens": 1.0}


def test_a_damaged_board_reads_empty(config: Any) -> None:
    path = board_path(config)
    path.write_bytes(b"no board")
    assert BoardReader(path).read() == {}


def test_boards_lie_in_a_directory_of_the_user_alone(config: Any) -> None:
    path = board_path(config)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_directory_that_is_a_link_is_refused(config: Any, tmp_path: Path) -> None:
    directory = board_path(config).parent
    directory.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    directory.symlink_to(elsewhere)
    with pytest.raises(PermissionError, match="is not a directory of this user"):
        board_path(config)


def test_a_directory_of_another_user_is_refused(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    someone_else = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: someone_else)
    with pytest.raises(PermissionError, match="is not a directory of this user"):
        board_path(config)


def test_engines_have_boards_of_their_own(config: Any) -> None:
    other = SimpleNamespace(
        instance_id="one", parallel_config=SimpleNamespace(data_parallel_index=1)
    )
    assert board_path(config) != board_path(other)


def test_more_counters_than_the_header_holds_are_refused(config: Any) -> None:
    names = [f"bucket:tokens={number}" for number in range(HEADER_BYTES // 10)]
    with pytest.raises(ValueError, match="don't fit into a header"):
        BoardWriter(board_path(config), names)


def test_what_a_killed_worker_left_is_taken_away(config: Any) -> None:
    path = board_path(config)
    source = """
import os, sys
from pathlib import Path
from vllm_npu_platform.stats.board import BoardWriter
writer = BoardWriter(Path(sys.argv[1]), ["steps"])
os.kill(os.getpid(), 9)
"""
    left = path.with_name("left.board")
    subprocess.run([sys.executable, "-c", source, str(left)])
    assert left.exists()
    running = BoardWriter(path.with_name("running.board"), ["steps"])
    BoardWriter(path, ["steps"])
    assert not left.exists()
    assert path.with_name("running.board").exists()
    running.close()


def test_a_server_takes_away_what_engines_left_that_it_killed(config: Any) -> None:
    """Boards that were ready, and one that wasn't yet."""
    path = board_path(config)
    source = """
import multiprocessing, os, sys, time
from pathlib import Path
from types import SimpleNamespace
from vllm_npu_platform.stats import board

def engine(path, ready):
    board.BoardWriter(path, ["steps"])
    path.with_suffix(".draft").touch()
    ready.set()
    time.sleep(600)

if __name__ == "__main__":
    path = Path(sys.argv[1])
    config = SimpleNamespace(
        instance_id="one", parallel_config=SimpleNamespace(data_parallel_index=0)
    )
    board.board_path = lambda _: path
    board.take_away_at_end(config)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=engine, args=(path, ready))
    process.start()
    ready.wait()
    process.kill()
    assert path.exists()
    sys.exit(143)
"""
    other = BoardWriter(path.with_name("other-0.board"), ["steps"])
    done = subprocess.run([sys.executable, "-c", source, str(path)], capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert [each.name for each in path.parent.iterdir()] == ["other-0.board"]
    other.close()

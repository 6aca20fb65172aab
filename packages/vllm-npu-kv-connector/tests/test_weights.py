"""Fingerprints of checkpoints: equal for equal weights, wherever they lie."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vllm_npu_kv_connector import weights
from vllm_npu_kv_connector.weights import fingerprint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    rng = np.random.default_rng(0)
    save_file({"a": rng.random((512, 512))}, directory / "model.safetensors")
    return directory


def test_a_copy_has_the_same(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    assert fingerprint(copy) == fingerprint(checkpoint)


def test_weights_trained_further_have_another(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)
    rng = np.random.default_rng(0)
    save_file({"a": rng.random((512, 512)) * 1.001}, checkpoint / "model.safetensors")
    assert fingerprint(checkpoint) != before


def test_other_shapes_and_names_have_others(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)
    (checkpoint / "model.safetensors").rename(checkpoint / "model-1.safetensors")
    renamed = fingerprint(checkpoint)
    save_file({"b": np.zeros(3)}, checkpoint / "model-2.safetensors")
    assert len({before, renamed, fingerprint(checkpoint)}) == 3


def test_a_directory_without_weights_has_none(tmp_path: Path) -> None:
    assert fingerprint(tmp_path) is None
    assert fingerprint(tmp_path / "missing") is None


@pytest.mark.parametrize("place", [0.0, 0.37, 0.9999])
def test_every_byte_counts(tmp_path: Path, place: float) -> None:
    """One of 64 MiB, wherever it lies."""
    numbers = np.zeros(64 << 20, np.uint8)
    path = tmp_path / "model.safetensors"
    save_file({"a": numbers}, path)
    before = fingerprint(tmp_path)
    numbers[int(place * len(numbers))] = 1
    save_file({"a": numbers}, path)
    assert fingerprint(tmp_path) != before


class Reads:
    """Counts the files that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        plain = weights._digest

        def digest(path: Path) -> str:
            self.count += 1
            return plain(path)

        monkeypatch.setattr(weights, "_digest", digest)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def test_what_was_read_is_remembered(checkpoint: Path, tmp_path: Path, reads: Reads) -> None:
    found = {fingerprint(checkpoint, tmp_path / "cache") for _ in range(3)}
    assert len(found) == 1 and reads.count == 1
    assert found == {fingerprint(checkpoint)}


def test_a_file_overwritten_in_place_is_read_again(
    checkpoint: Path, tmp_path: Path, reads: Reads
) -> None:
    """Also where its size stays, and its time was set back."""
    path, cache = checkpoint / "model.safetensors", tmp_path / "cache"
    before, times = fingerprint(checkpoint, cache), path.stat()
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\1" * 8)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(checkpoint, cache) != before
    assert reads.count == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"])
def test_a_damaged_memory_costs_time_alone(
    checkpoint: Path, tmp_path: Path, content: bytes, reads: Reads
) -> None:
    cache = tmp_path / "cache"
    before = fingerprint(checkpoint, cache)
    (record,) = cache.iterdir()
    record.write_bytes(content)
    assert fingerprint(checkpoint, cache) == before
    assert reads.count == 2
    assert fingerprint(checkpoint, cache) == before
    assert reads.count == 2


def test_a_memory_that_cannot_be_written_costs_time_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert fingerprint(checkpoint, tmp_path / "file" / "cache") == fingerprint(checkpoint)

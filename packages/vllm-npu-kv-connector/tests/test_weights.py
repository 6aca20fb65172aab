"""Fingerprints of checkpoints: equal for equal weights, wherever they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

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

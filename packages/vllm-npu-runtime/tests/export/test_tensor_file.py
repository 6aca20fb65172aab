"""A safetensors file that is written tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from vllm_npu_runtime.export.tensor_file import ALIGNMENT, Slot, TensorFile

TENSORS = {
    "odd": torch.arange(7, dtype=torch.uint8),
    "matrix": torch.randn(8, 16).to(torch.bfloat16),
    "scale": torch.randn(5, 1),
    "half": torch.randn(3).to(torch.float16),
    "scalar": torch.tensor(2.5),
    "large": torch.randn(64, 32),
}
SLOTS = [
    Slot(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
    for name, tensor in TENSORS.items()
]


def test_the_library_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with TensorFile(path, SLOTS) as file:
        for name in reversed(TENSORS):
            file.write(name, TENSORS[name])
    with safe_open(path, framework="pt") as read:
        assert set(read.keys()) == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert torch.equal(read.get_tensor(name), tensor), name
            assert read.get_tensor(name).dtype == tensor.dtype


def test_offsets_are_where_the_bytes_are(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with TensorFile(path, SLOTS) as file:
        for name, tensor in TENSORS.items():
            file.write(name, tensor)
    content = path.read_bytes()
    assert len(content) == file.size
    begin = file.offsets["scale"]
    assert content[begin : begin + 20] == TENSORS["scale"].numpy().tobytes()


def test_what_fills_whole_lines_is_aligned(tmp_path: Path) -> None:
    file = TensorFile(tmp_path / "weights.safetensors", SLOTS)
    assert file.offsets["matrix"] % ALIGNMENT == 0
    assert file.offsets["large"] % ALIGNMENT == 0
    assert file.offsets["scale"] % 4 == 0 and file.offsets["scalar"] % 4 == 0
    assert file.offsets["half"] % 2 == 0


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    matrix = torch.randn(4, 6).t()[1:]
    with TensorFile(path, [Slot("m", "float32", (5, 4))]) as file:
        file.write("m", matrix)
    with safe_open(path, framework="pt") as read:
        assert torch.equal(read.get_tensor("m"), matrix)


def test_what_is_never_written_is_an_error(tmp_path: Path) -> None:
    refused = pytest.raises(ValueError, match="never written: large, matrix")
    with refused, TensorFile(tmp_path / "weights.safetensors", SLOTS) as file:
        for name in TENSORS.keys() - {"large", "matrix"}:
            file.write(name, TENSORS[name])


@pytest.mark.parametrize("wrong", [torch.randn(64, 31), torch.randn(64, 32).half()])
def test_what_does_not_fit_is_an_error(tmp_path: Path, wrong: torch.Tensor) -> None:
    file = TensorFile(tmp_path / "weights.safetensors", SLOTS)
    with pytest.raises(ValueError, match="large"):
        file.write("large", wrong)


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_text("mine")
    with pytest.raises(FileExistsError):
        TensorFile(tmp_path / "weights.safetensors", SLOTS)
    assert (tmp_path / "weights.safetensors").read_text() == "mine"

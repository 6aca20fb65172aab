"""A converted graph in files, with the compiled model or without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("openvino")

from vllm_npu_runtime.drivers.base import CompileOptions, Executable
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.saved import BLOB, CONSTANTS, GRAPH, WEIGHTS
from vllm_npu_runtime.program import Program

from .programs import DRIVER, load, make

X, W = torch.randn(4, 16), torch.randn(16, 16)


def _program(name: str = "x") -> Program:
    offset = torch.arange(16.0)
    tensors = {name: X, "w": W, "offset": offset}
    program = make(lambda **t: (t[name] @ t["w"]).softmax(-1) * 2 + torch.arange(16), **tensors)
    return program


def _save(path: Path, **options: object) -> tuple[Executable, CompileOptions]:
    executable = load(_program(), {"x": X}, **options)
    assert DRIVER.save(executable, path)
    return executable, CompileOptions(driver=options)


@pytest.mark.parametrize("keep_blob", [False, True])
def test_loaded_runs_like_saved(tmp_path: Path, keep_blob: bool) -> None:
    """From the files alone; new weights take effect even over a compiled model."""
    saved, options = _save(tmp_path, keep_blob=keep_blob)
    assert (tmp_path / BLOB).exists() is keep_blob
    loaded = DRIVER.load(saved.program, "CPU", tmp_path, options)
    loaded.bind({"x": X})
    torch.testing.assert_close(loaded.run()[0], saved.run()[0])
    loaded.bind({"w": W * 2})
    saved.bind({"w": W * 2})
    torch.testing.assert_close(loaded.run()[0], saved.run()[0])


def test_weights_are_not_saved(tmp_path: Path) -> None:
    """They are in the checkpoint."""
    x, w = torch.randn(4, 512), torch.randn(512, 512)
    executable = load(make(lambda x, w: x @ w, x=x, w=w), {"x": x})
    assert DRIVER.save(executable, tmp_path)
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) < w.nbytes / 10


@pytest.mark.parametrize("name", [GRAPH, CONSTANTS, BLOB, WEIGHTS])
@pytest.mark.parametrize("kept", [None, 0.0, 0.3, 0.9])
def test_damage_is_refused(tmp_path: Path, name: str, kept: float | None) -> None:
    """A file that is gone, empty, or cut short."""
    saved, options = _save(tmp_path, keep_blob=True)
    path = tmp_path / name
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        DRIVER.load(saved.program, "CPU", tmp_path, options)


def test_a_compiled_model_with_other_weights_is_refused(tmp_path: Path) -> None:
    """The checkpoint has been changed since."""
    saved, options = _save(tmp_path, keep_blob=True)
    saved.bind({"w": W * 2})
    saved.run()
    (tmp_path / "newer").mkdir()
    assert DRIVER.save(saved, tmp_path / "newer")
    DRIVER.load(saved.program, "CPU", tmp_path, options)
    with pytest.raises(ConfigurationError, match="other weights"):
        DRIVER.load(saved.program, "CPU", tmp_path / "newer", options)


@pytest.mark.parametrize("other", ["name", "shape", "dtype"])
def test_another_program_is_refused(tmp_path: Path, other: str) -> None:
    """With other names, shapes or dtypes of inputs."""
    _, options = _save(tmp_path)
    if other == "name":
        program = _program("y")
    elif other == "shape":
        program = make(lambda x, w: x @ w, x=torch.randn(5, 16), w=W)
    else:
        program = make(lambda x, w: x @ w, x=X.bfloat16(), w=W.bfloat16())
    with pytest.raises(ConfigurationError, match="another program"):
        DRIVER.load(program, "CPU", tmp_path, options)

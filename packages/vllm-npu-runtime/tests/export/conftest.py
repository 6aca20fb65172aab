"""What the tests of compiling share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_npu_runtime.artifact.directory import Artifact

from .checkpoints import CHECKPOINTS

Compile = Callable[..., Artifact]


@pytest.fixture(scope="session", autouse=True)
def _needed() -> None:
    for package in ("openvino", "transformers"):
        pytest.importorskip(package, reason=f"compiling needs {package}: the extra [artifacts]")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, _needed: None) -> Callable[[str], Path]:
    """Gives a checkpoint by its name in `CHECKPOINTS`, made once."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(name: str) -> Path:
        if not (root / name).exists():
            CHECKPOINTS[name](root / name)
        return root / name

    return make


@pytest.fixture(scope="session")
def compiled(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Compile]:
    """Compiles a checkpoint by name and options, once."""
    from vllm_npu_runtime.export.compile import compile_artifact

    root = tmp_path_factory.mktemp("artifacts")
    known: dict[str, Artifact] = {}

    def compile_once(name: str, **options: object) -> Artifact:
        key = repr((name, sorted(options.items())))
        if key not in known:
            options = {"dtype": "float32"} | options
            path = root / str(len(known))
            known[key] = compile_artifact(checkpoint(name), path, **options)  # type: ignore[arg-type]
        return known[key]

    yield compile_once

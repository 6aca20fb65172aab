"""What the tests of sessions share: tiny artifacts, compiled once, and sessions that end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.conformance.checkpoint import write
from vllm_npu_runtime.sessions.base import Session, SessionOptions

MAX_LENGTH = 640


@pytest.fixture(scope="session", autouse=True)
def _needed() -> None:
    for package in ("openvino", "transformers"):
        pytest.importorskip(package, reason=f"compiling artifacts needs {package}")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, _needed: None) -> Callable[[str], Path]:
    """A tiny checkpoint by its kind: "llama", or "exaone4" with sliding windows."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(kind: str) -> Path:
        return root / kind if (root / kind).exists() else write(kind, root / kind)

    return make


@pytest.fixture(scope="session")
def compiled(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Artifact]:
    """An artifact by its checkpoint's kind and how it is compiled."""
    from vllm_npu_runtime.export.compile import compile_artifact

    root = tmp_path_factory.mktemp("artifacts")
    known: dict[str, Artifact] = {}

    def make(kind: str = "llama", **options: object) -> Artifact:
        options = {"dtype": "float32", "max_model_len": MAX_LENGTH} | options
        key = repr((kind, sorted(options.items())))
        if key not in known:
            path = root / str(len(known))
            known[key] = compile_artifact(checkpoint(kind), path, **options)  # type: ignore[arg-type]
        return known[key]

    return make


@pytest.fixture
def opened(compiled: Callable[..., Artifact]) -> Iterator[Callable[..., Session]]:
    """Opens an artifact on a device; sessions end with the test."""
    from vllm_npu_runtime.sessions.opening import open_session

    made: list[Session] = []

    def make(
        device: str,
        kind: str = "llama",
        dtype: str = "float32",
        slots: int = 4,
        weights: str | None = None,
        **options: object,
    ) -> Session:
        artifact = compiled(kind, dtype=dtype, weights=weights)
        given = SessionOptions(slots, **options)  # type: ignore[arg-type]
        made.append(open_session(artifact.directory, device, given))
        return made[-1]

    yield make
    for session in made:
        session.close()


@pytest.fixture(autouse=True)
def _fresh_paper_devices() -> Iterator[None]:
    """Paper devices without memory taken, faults or counts from other tests."""
    from vllm_npu_runtime import drivers

    drivers.load("sim").reset()  # type: ignore[attr-defined]
    yield
    drivers.load("sim").reset()  # type: ignore[attr-defined]


@pytest.fixture
def float32_through_npuw(_needed: None) -> Iterator[None]:
    """NPUW hands no precision on, and the processor's own default may be bfloat16."""
    from vllm_npu_runtime.openvino.devices import core

    before = core().get_property("CPU", "INFERENCE_PRECISION_HINT")
    core().set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    yield
    core().set_property("CPU", {"INFERENCE_PRECISION_HINT": before})


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    """Ids, as many as a slot holds."""
    return torch.randint(3, 250, (MAX_LENGTH,), generator=torch.Generator().manual_seed(3))

"""Artifacts of every family, and engines that serve them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import compiling
from tests.artifacts import exaone

if TYPE_CHECKING:
    from tests.conftest import Engines

FAMILIES = ("llama", "exaone", "exaone4", "qwen2", "qwen3")
DEVICES = ("reference", "openvino:CPU")


@pytest.fixture(scope="session")
def checkpoint(
    tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path]]:
    """The checkpoint of a family, and the one that Hugging Face runs in its stead."""
    made: dict[str, Path] = {}

    def get(family: str) -> tuple[Path, Path]:
        if family != "exaone":
            return tiny_model(family), tiny_model(family)
        llama = tiny_model("llama")
        if family not in made:
            made[family] = exaone.write(llama, tmp_path_factory.mktemp("exaone") / "exaone")
        return made[family], llama

    return get


@pytest.fixture(scope="session")
def serve_artifact(
    engines: Engines, checkpoint: Callable[[str], tuple[Path, Path]]
) -> Callable[..., Any]:
    """An engine for a family's artifact: on a device, with options of the compiler and of vLLM."""

    def get(
        family: str, device: str, compiled: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        path = compiling.build(checkpoint(family)[0], **(compiled or {}))
        return engines.of(path, device, max_model_len=1024, seed=0, **options)

    return get

"""Tiny models compiled ahead of time: made once, and again when the compiler changes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).parent.parent
STORE = Path(os.environ.get("NPU_TEST_ARTIFACTS", ROOT / ".cache" / "tiny-artifacts"))
RUNTIME = ROOT / "packages" / "vllm-npu-runtime" / "src" / "vllm_npu_runtime"


def build(model: Path, **options: Any) -> Path:
    """The artifact of a model.

    Args:
        model: directory of a checkpoint.
        options: of `vllm_npu_runtime.export.compile.compile_artifact`.
    """
    from vllm_npu_runtime.export.compile import compile_artifact

    options = {"dtype": "float32", **options}
    directory = STORE / f"{model.name}-{_digest(model, options)}"
    STORE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if not directory.exists():
            compile_artifact(model, directory, **options)
    return directory


def _digest(model: Path, options: dict[str, Any]) -> str:
    total = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    sources = sorted(
        path for folder in ("artifact", "export") for path in (RUNTIME / folder).rglob("*.py")
    )
    weights = [model / "config.json", *sorted(model.glob("*.safetensors"))]
    for path in (*sources, *weights):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]

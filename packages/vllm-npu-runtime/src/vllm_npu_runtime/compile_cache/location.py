"""Where the compile cache is, and whether there is to be one."""

import os
from collections.abc import Mapping
from pathlib import Path


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """`$VLLM_CACHE_ROOT/npu`, with vLLM's own default for the root of its caches."""
    home = environ.get("HOME") or os.path.expanduser("~")
    root = environ.get("VLLM_CACHE_ROOT") or os.path.join(
        environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "vllm"
    )
    return Path(root.replace("~", home, 1) if root.startswith("~/") else root).absolute() / "npu"


def enabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether graphs are kept; ``VLLM_DISABLE_COMPILE_CACHE=1`` says no, as for vLLM's cache."""
    return environ.get("VLLM_DISABLE_COMPILE_CACHE", "0").strip().lower() not in ("1", "true")

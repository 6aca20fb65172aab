"""Where the compile cache is, and whether it is used. vLLM's own variables say so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vllm_npu_runtime.errors import ConfigurationError

OFF = "VLLM_DISABLE_COMPILE_CACHE"


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """``$VLLM_CACHE_ROOT/npu``, as vLLM finds the root of its caches."""
    home = environ.get("HOME") or os.path.expanduser("~")
    root = environ.get("VLLM_CACHE_ROOT") or os.path.join(
        environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "vllm"
    )
    return Path(root.replace("~", home, 1) if root.startswith("~/") else root).absolute() / "npu"


def enabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether graphs are kept: not where ``VLLM_DISABLE_COMPILE_CACHE`` is a number but 0, or true.

    Raises:
        ConfigurationError: it is neither a number nor true or false.
    """
    value = environ.get(OFF, "0").strip()
    if value.lower() in ("true", "false"):
        return value.lower() == "false"
    try:
        return not int(value)
    except ValueError:
        raise ConfigurationError(
            f"{OFF}={value!r}: must be 1 to switch the compile cache off, or 0."
        ) from None

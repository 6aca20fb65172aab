"""Whether what compiling needs is installed."""

from __future__ import annotations

from importlib.util import find_spec

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.requirement import require as require_openvino

INSTALL = "Install it with `pip install 'vllm-npu-runtime[artifacts]'`."


def require() -> None:
    """Refuse to go on without them.

    Raises:
        ConfigurationError: names what to install.
    """
    require_transformers()
    require_openvino()


def require_transformers() -> None:
    """The same, for what needs the Hugging Face model alone.

    Raises:
        ConfigurationError: names what to install.
    """
    if find_spec("transformers") is None:
        raise ConfigurationError(f"Compiling models needs transformers. {INSTALL}")

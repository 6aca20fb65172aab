"""Whether OpenVINO is there, and new enough."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from packaging.version import InvalidVersion, Version

from vllm_npu_runtime.errors import ConfigurationError

OLDEST = Version("2026.4")
INSTALL = "Install it with `pip install 'vllm-npu-runtime[openvino]'`."


@cache
def require() -> None:
    """Refuse to go on without a version that fits.

    Raises:
        ConfigurationError: names what to install.
    """
    try:
        found = Version(version("openvino"))
    except PackageNotFoundError:
        raise ConfigurationError(
            f"Driver 'openvino' needs OpenVINO, which isn't installed. {INSTALL}"
        ) from None
    except InvalidVersion as error:
        raise ConfigurationError(f"OpenVINO's version can't be told: {error}. {INSTALL}") from None
    if found < OLDEST:
        raise ConfigurationError(
            f"Driver 'openvino' needs OpenVINO {OLDEST} or newer; {found} is installed. {INSTALL}"
        )
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"OpenVINO {found} can't be imported: {error}. {INSTALL}") from (
            error
        )

"""Whether OpenVINO is there, and new enough."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from packaging.version import InvalidVersion, Version

from vllm_npu_runtime.errors import ConfigurationError

OLDEST = Version("2026.4")
TELEMETRY = "openvino_telemetry"
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
        _import()
    except ImportError as error:
        raise ConfigurationError(f"OpenVINO {found} can't be imported: {error}. {INSTALL}") from (
            error
        )


def _import() -> None:
    """Import OpenVINO without its telemetry, which starts a thread at once that forks this process
    to report the import; a server holds open what that process inherits."""
    if "openvino" in sys.modules:
        return
    known = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino  # noqa: F401
    finally:
        del sys.modules[TELEMETRY]
        if known is not None:
            sys.modules[TELEMETRY] = known

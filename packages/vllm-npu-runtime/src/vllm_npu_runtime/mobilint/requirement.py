"""Whether Mobilint's runtime is there, in a version that fits."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import InvalidVersion, Version

from vllm_npu_runtime.errors import ConfigurationError

PACKAGE = "mobilint-qb-runtime"
OLDEST, TOO_NEW = Version("1.5"), Version("2")
INSTALL = "Install it with `pip install 'vllm-npu-runtime[mobilint]'`."


def require() -> str:
    """Refuse to go on without a version that fits; gives that version.

    Raises:
        ConfigurationError: names what to install.
    """
    try:
        found = Version(version(PACKAGE))
    except PackageNotFoundError:
        raise ConfigurationError(
            f"Driver 'mobilint' needs {PACKAGE}, which isn't installed. {INSTALL}"
        ) from None
    except InvalidVersion as error:
        raise ConfigurationError(f"{PACKAGE}'s version can't be told: {error}. {INSTALL}") from None
    if not OLDEST <= found < TOO_NEW:
        raise ConfigurationError(
            f"Driver 'mobilint' needs {PACKAGE} {OLDEST} or newer, below {TOO_NEW}; {found} is "
            f"installed. {INSTALL}"
        )
    try:
        import qbruntime  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{PACKAGE} {found} can't be imported: {error}. {INSTALL}") from (
            error
        )
    return str(found)

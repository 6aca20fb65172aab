"""The versions that belong together."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

PYTHON = SpecifierSet(">=3.11,<3.15")


@dataclass(frozen=True)
class Supported:
    """One row: a vLLM release with the torch that it is built for.

    Attributes:
        vllm: which versions of vLLM.
        torch: which versions of torch go with them.
        newest: the vLLM to install.
        newest_torch: the torch to install.
    """

    vllm: SpecifierSet
    torch: SpecifierSet
    newest: str
    newest_torch: str

    @property
    def install_vllm(self) -> str:
        """The command. vLLM's published wheels are for CUDA, so it is built without kernels."""
        return (
            "VLLM_TARGET_DEVICE=empty pip install --no-build-isolation --no-deps "
            f"--no-binary vllm vllm=={self.newest}"
        )

    @property
    def install_torch(self) -> str:
        """The command, for a build without CUDA."""
        return (
            f"pip install torch=={self.newest_torch} "
            "--index-url https://download.pytorch.org/whl/cpu"
        )


TABLE = (Supported(SpecifierSet(">=0.32,<0.33"), SpecifierSet(">=2.13,<2.14"), "0.32.0", "2.13.0"),)
"""Newest first."""


def within(version: str, allowed: SpecifierSet) -> bool:
    """Whether a version, of whichever build, is one of those."""
    try:
        return allowed.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def row_for(vllm: str | None) -> Supported:
    """The row of an installed vLLM; the newest for any other."""
    return next((row for row in TABLE if vllm and within(vllm, row.vllm)), TABLE[0])

"""The distributions of this workspace, and the one version that they share.

`python nox_tools/packages.py v0.1.0` fails unless every version is the tag's.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# Each distribution with its siblings' closure, in the order in which to publish them.
PACKAGES: dict[str, tuple[str, ...]] = {
    "vllm-npu-runtime": (),
    "vllm-npu-platform": ("vllm-npu-runtime",),
    "vllm-npu-models": ("vllm-npu-runtime",),
    "vllm-npu-quantization": ("vllm-npu-runtime",),
    "vllm-npu-kv-connector": ("vllm-npu-runtime",),
    "vllm-npu": ("vllm-npu-runtime", "vllm-npu-platform"),
}


def directory(package: str) -> Path:
    """Where the package's pyproject.toml lies."""
    return ROOT / "packages" / package


def pyprojects() -> list[Path]:
    """Every package's pyproject.toml."""
    return [directory(package) / "pyproject.toml" for package in PACKAGES]


def _project(package: str) -> dict[str, Any]:
    return tomllib.loads((directory(package) / "pyproject.toml").read_text())["project"]


def version() -> str:
    """The suite's version; ValueError names every package that disagrees with the first."""
    expected = _project(next(iter(PACKAGES)))["version"]
    wrong = []
    for package, siblings in PACKAGES.items():
        project = _project(package)
        if project["version"] != expected:
            wrong.append(f"{package} is {project['version']}, not {expected}")
        for sibling in siblings:
            pinned = {re.sub(r"\[.*\]", "", pin) for pin in project["dependencies"]}
            if f"{sibling}=={expected}" not in pinned:
                wrong.append(f"{package} doesn't depend on {sibling}=={expected}")
    if wrong:
        raise ValueError("the packages disagree on their version: " + "; ".join(wrong))
    return expected


def check_tag(tag: str) -> None:
    """ValueError unless the tag is the version with a `v` before it."""
    if tag != f"v{version()}":
        raise ValueError(f"tag {tag} doesn't release version {version()}: tag v{version()} would")


if __name__ == "__main__":
    try:
        check_tag(sys.argv[1])
    except ValueError as error:
        sys.exit(f"error: {error}")

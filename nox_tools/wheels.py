"""Wheels of the packages, and environments that hold nothing of ours but wheels."""

import tempfile
from pathlib import Path

import nox

from nox_tools.environment import CONSTRAINTS, Environment, Part, find_uv
from nox_tools.packages import PACKAGES, ROOT, directory, pyprojects, version

SMOKE = ROOT / "nox_tools" / "smoke.py"
TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis")
OF_VLLM = {"vllm-npu-platform", "vllm-npu-models", "vllm-npu-quantization", "vllm-npu-kv-connector"}
"""Packages that import vLLM."""


def build(session: nox.Session, out: Path) -> None:
    """A wheel and a source distribution of each package, in place of older ones in `out`."""
    session.log(f"building version {version()}")
    for old in out.glob("vllm_npu*"):
        old.unlink()
    options = ["--quiet", "--build-constraints", CONSTRAINTS, "--out-dir", out]
    session.run(find_uv(), "build", "--all-packages", *map(str, options), external=True)


def installed(session: nox.Session, name: str, packages: tuple[str, ...]) -> Environment:
    """An environment outside the workspace with these packages' wheels and what they require."""
    env = Environment(session, ROOT / ".nox" / name)
    env.path.parent.mkdir(exist_ok=True)
    env.create()
    if not OF_VLLM.isdisjoint(packages):
        env.add_vllm()
    out = ROOT / ".nox" / "wheels"
    build(session, out)
    wheels = [next(out.glob(f"{package.replace('-', '_')}-*.whl")) for package in packages]
    # uv would reuse a cached wheel of the same version.
    options = ["--no-sources"]
    for package in packages:
        options += ["--reinstall-package", package]
    inputs: list[Part] = [CONSTRAINTS, *pyprojects(), *TEST_TOOLS]
    env.layer("dependencies", inputs, lambda: env.install(*options, *wheels, *TEST_TOOLS))
    env.install("--no-deps", *options, *wheels)
    return env


def check(env: Environment, packages: tuple[str, ...]) -> None:
    """Entry points load, from the wheels; the command and the platform work."""
    with tempfile.TemporaryDirectory() as away:
        env.run("python", "-I", SMOKE, *packages, cwd=Path(away))
        env.run("vllm-npu", "doctor", cwd=Path(away), env={"VLLM_NPU_DEVICE": "reference"})


def unit_tests(env: Environment, package: str) -> None:
    """The package's own tests, copied away from the sources, with the workspace's settings."""
    tests = directory(package) / "tests"
    if not tests.exists():
        env.session.log(f"{package} has no tests of its own")
        return
    with tempfile.TemporaryDirectory() as away:
        env.session.run("cp", "-r", str(tests), str(ROOT / "pyproject.toml"), away, external=True)
        env.run("python", "-m", "pytest", "tests", *env.session.posargs, cwd=Path(away))


def closure(package: str) -> tuple[str, ...]:
    """The package after its siblings."""
    return (*PACKAGES[package], package)

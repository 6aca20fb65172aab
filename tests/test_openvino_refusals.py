"""OpenVINO missing, old or out of memory, and what it can't do: told with the fix, and no crash."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DEMO_MODEL
from tests.server import refusals
from tests.server.refusals import Case
from tests.serving import VLLM, Finished, run
from vllm_npu_runtime.errors import OutOfMemoryError
from vllm_npu_runtime.openvino.processor import VARIABLE

DEVICE = "openvino:CPU"
INSTALL = "pip install 'vllm-npu-runtime[openvino]'"
MIB = 1 << 20

# Start-up code that hides a distribution and its package.
HIDE = """
import importlib.metadata, sys

found = importlib.metadata.Distribution.from_name

def from_name(name):
    if name == "openvino":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)

importlib.metadata.Distribution.from_name = from_name
sys.modules["openvino"] = None
"""


@dataclass(frozen=True)
class Installation:
    """OpenVINO as it shouldn't be: files that Python finds first, and what is said."""

    files: dict[str, str]
    words: str


INSTALLATIONS = {
    "missing": Installation({"sitecustomize.py": HIDE}, "needs OpenVINO, which isn't installed"),
    "old": Installation(
        {"openvino-2025.3.0.dist-info/METADATA": "Name: openvino\nVersion: 2025.3.0\n"},
        "needs OpenVINO 2026.4 or newer; 2025.3.0 is installed",
    ),
    "broken": Installation(
        {"openvino/__init__.py": "raise ImportError('libopenvino.so is missing')"},
        "can't be imported: libopenvino.so is missing",
    ),
}


class TestInstallation:
    """What is installed, by the commands that a user tries first."""

    @pytest.mark.parametrize("name", INSTALLATIONS)
    def test_the_doctor_says_what_to_install(self, name: str, tmp_path: Path) -> None:
        done = vllm_npu("doctor", PYTHONPATH=write(INSTALLATIONS[name].files, tmp_path))
        assert done.returncode == 1
        line = told(done, f"VLLM_NPU_DEVICE={DEVICE}: ")
        assert INSTALLATIONS[name].words in line and INSTALL in line

    def test_serving_ends_with_what_to_install(self, tmp_path: Path) -> None:
        old = INSTALLATIONS["old"]
        env = {"VLLM_NPU_DEVICE": DEVICE, "PYTHONPATH": write(old.files, tmp_path)}
        done = run([VLLM, "serve", DEMO_MODEL], env=env)
        assert done.returncode > 0
        assert old.words in done.last_lines(1) and INSTALL in done.last_lines(1)

    def test_the_doctor_names_the_devices_that_exist(self) -> None:
        done = vllm_npu("doctor", VLLM_NPU_DEVICE="openvino:XPU")
        assert done.returncode == 1
        line = told(done, "VLLM_NPU_DEVICE=openvino:XPU: ")
        assert "Unknown device 'openvino:XPU'" in line
        assert DEVICE in line.partition("Known: ")[2]


@dataclass(frozen=True)
class Bad:
    """A configuration that OpenVINO can't honour, and words that the answer must have."""

    words: tuple[str, ...]
    arguments: tuple[str, ...] = ("--dtype", "float32")
    npu: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


BAD = {
    "device": Bad(
        ("VLLM_NPU_DEVICE='openvino:XPU'", f"Did you mean '{DEVICE}'?"),
        variables={"VLLM_NPU_DEVICE": "openvino:XPU"},
    ),
    "KV dtype": Bad(
        (f"--kv-cache-dtype fp8: {DEVICE} keeps KV in", "float32", "uint8, uint4", "Choose one"),
        ("--dtype", "float32", "--kv-cache-dtype", "fp8"),
    ),
    "quantized KV of the gather contract": Bad(
        ("kv_cache_dtype 'uint8'", "float32", "Choose one"),
        npu={"kv_cache_dtype": "uint8", "kv_contract": "gather"},
    ),
    "KV contract of a model with capped scores": Bad(
        ("kv_contract 'paged'", "caps attention scores", "Leave the setting out"),
        ("--dtype", "float32", "--hf-overrides", '{"attn_logit_softcapping": 5.0}'),
        npu={"kv_contract": "paged"},
    ),
    "KV dtype that the arithmetic forbids": Bad(
        ("KV", "keeps KV in", "Choose one"), npu={"kv_cache_dtype": "bfloat16"}
    ),
    "KV dtype of a model that is computed in another": Bad(
        (f"--kv-cache-dtype bfloat16: {DEVICE} keeps KV in", "'auto' takes float32"),
        ("--dtype", "bfloat16", "--kv-cache-dtype", "bfloat16"),
        variables={VARIABLE: "float32"},
    ),
    "arithmetic that the processor lacks": Bad(
        ("'precision'", "'bf16'", "this processor computes in f32", "leave the option out"),
        npu={"driver_options": {"precision": "bf16"}},
        variables={VARIABLE: "float32"},
    ),
    "processor that there isn't": Bad(
        (f"{VARIABLE}=float32,float8", "doesn't compute in float8", "unset the variable"),
        variables={VARIABLE: "float32,float8"},
    ),
    "option of the driver": Bad(
        ("'thread'", "Did you mean 'threads'?"), npu={"driver_options": {"thread": 2}}
    ),
    "option of another device": Bad(
        ("turbo", "not for CPU"), npu={"driver_options": {"turbo": True}}
    ),
}


class TestConfiguration:
    """Refused before anything is started."""

    @pytest.mark.parametrize("name", BAD)
    def test_is_refused(self, name: str, answers: dict[str, str]) -> None:
        assert answers[name], "it was accepted"
        assert not [word for word in BAD[name].words if word not in answers[name]], answers[name]


class TestMemory:
    """Less address space than is needed."""

    @pytest.mark.parametrize(
        ("work", "doing"),
        [("compile", f"Compiling 'p' for {DEVICE}"), ("run", "Running 'p'")],
    )
    def test_too_little_is_told_with_the_bytes(
        self, process: ProcessPoolExecutor, work: str, doing: str
    ) -> None:
        with pytest.raises(OutOfMemoryError, match=rf"^{doing}: Failed to allocate \d+ bytes"):
            process.submit(starve, work).result()


def starve(work: str) -> None:
    """Compile or run something of 256 MiB with 64 MiB to spare."""
    import torch

    from vllm_npu_runtime.capture import Named, capture
    from vllm_npu_runtime.drivers.base import CompileOptions, Executable
    from vllm_npu_runtime.drivers.openvino import OpenVINODriver
    from vllm_npu_runtime.extents import Varying
    from vllm_npu_runtime.program import Kind

    def prepare(size: int) -> Callable[[], Executable]:
        weight, rows = torch.ones(size, size), torch.ones(4, size)
        varying = {0: Varying("rows", 1 << 16)}
        named = [
            Named("weight", Kind.WEIGHT, weight),
            Named("rows", Kind.INPUT, rows, varying),
        ]
        program = capture("p", lambda: {"out": (rows @ weight).relu() @ weight}, named)
        return lambda: OpenVINODriver().compile(program, "CPU", CompileOptions())

    def run(executable: Executable, rows: torch.Tensor) -> None:
        executable.bind({"rows": rows})
        executable.run()

    small = prepare(1024)()
    run(small, torch.ones(4, 1024))  # threads have their memory from now on
    large, many = prepare(8192), torch.ones(1 << 16, 1024)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 64 * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        if work == "compile":
            large()
        else:
            run(small, many)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """A process of its own, of which a crash would be a failure."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def answers(forks: None) -> dict[str, str]:
    """What each configuration was answered; "" if it was accepted."""
    cases = {
        name: Case(
            [
                str(DEMO_MODEL),
                *("--max-model-len", "512", *bad.arguments),
                *("--additional-config", json.dumps({"npu": bad.npu})),
            ],
            {"VLLM_NPU_DEVICE": DEVICE, **bad.variables},
        )
        for name, bad in (BAD | {"plain": Bad(())}).items()
    }
    answered = refusals.answers(cases)
    assert answered["plain"] == "", "it is right"
    return answered


def vllm_npu(command: str, **env: str) -> Finished:
    """Run a command of ours."""
    return run([VLLM.with_name("vllm-npu"), command], env={"VLLM_NPU_DEVICE": DEVICE, **env})


def told(done: Finished, start: str) -> str:
    """The only line with `start`, from a command that has shown no traceback."""
    assert "Traceback" not in done.output
    (line,) = [line for line in done.output.splitlines() if start in line]
    return line


def write(files: dict[str, str], directory: Path) -> str:
    """Write files, and give the directory's name back."""
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(content)
    return str(directory)

"""What the processor computes in, what it serves, and a processor taken for a lesser one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("openvino")

from vllm_npu_runtime.drivers.base import CompileOptions, KVBlock
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino import devices, processor
from vllm_npu_runtime.openvino.config import compile_config
from vllm_npu_runtime.openvino.options import OpenVINOOptions
from vllm_npu_runtime.openvino.processor import VARIABLE, closest, computed_dtypes

from .programs import DRIVER, load, make

ALL = {torch.float32, torch.bfloat16, torch.float16}
SERVER = ["FP32", "INT8", "BF16", "FP16"]
LAPTOP = ["FP32", "INT8"]


@pytest.fixture(params=[SERVER, LAPTOP], ids=["with BF16", "without"])
def offered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What OpenVINO says of the processor, whichever it is."""
    monkeypatch.delenv(VARIABLE, raising=False)
    known = devices._properties()
    changed = {"CPU": {**known["CPU"], "OPTIMIZATION_CAPABILITIES": request.param}}
    monkeypatch.setattr(devices, "_properties", lambda now=False: changed)
    return list(request.param)


def test_every_dtype_is_served(offered: list[str]) -> None:
    """Each in itself where the processor has it, else in float32; float16 always so."""
    can = DRIVER.capabilities("CPU")
    assert set(can.dtypes) == ALL
    short = {torch.float16} if offered == SERVER else {torch.float16, torch.bfloat16}
    assert can.arithmetic == dict.fromkeys(short, torch.float32)
    assert can.dtypes[0] is (torch.bfloat16 if offered == SERVER else torch.float32)


def test_precision_is_the_closest(offered: list[str]) -> None:
    """The hint that OpenVINO gets for each dtype of a model."""
    hints = {
        dtype: compile_config("CPU", OpenVINOOptions(), dtype, None)["INFERENCE_PRECISION_HINT"]
        for dtype in ALL
    }
    short = "bf16" if offered == SERVER else "f32"
    assert hints == {torch.float32: "f32", torch.float16: "f32", torch.bfloat16: short}


def test_kv_is_in_the_models_dtype_or_exact(offered: list[str]) -> None:
    """Float32 holds all of bfloat16's numbers, where that can't be kept."""
    kept = {
        dtype: compile_config("CPU", OpenVINOOptions(), dtype, None)["KV_CACHE_PRECISION"]
        for dtype in ALL
    }
    short = "bf16" if offered == SERVER else "f32"
    assert kept == {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: short}
    can = DRIVER.capabilities("CPU")
    assert (torch.bfloat16 in can.kv_cache_dtypes) is (offered == SERVER)


def test_precision_that_the_processor_lacks_is_refused(offered: list[str]) -> None:
    """OpenVINO would take it, and compute in float32 without a word."""
    options = OpenVINOOptions.of({"precision": "bf16"})
    if offered == SERVER:
        assert compile_config("CPU", options, torch.float32, None)
        return
    with pytest.raises(ConfigurationError, match=r"'precision'.*'bf16'.*computes in f32\. Choose"):
        compile_config("CPU", options, torch.float32, None)


def test_fingerprint_tells_arithmetics_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nothing that is kept on disk is taken for the other's."""
    known = devices._properties()
    found = set()
    for offered in (SERVER, LAPTOP):
        changed = {"CPU": {**known["CPU"], "OPTIMIZATION_CAPABILITIES": offered}}
        monkeypatch.setattr(devices, "_properties", lambda now=False, c=changed: c)
        for given in (None, "float32"):
            monkeypatch.delenv(VARIABLE, raising=False)
            if given:
                monkeypatch.setenv(VARIABLE, given)
            found.add(DRIVER.fingerprint("CPU"))
    assert len(found) == 2
    assert sum("bfloat16" in each for each in found) == 1


class TestPretending:
    """`VARIABLE`."""

    def test_a_lesser_processor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a server computes in is left out."""
        monkeypatch.delenv(VARIABLE, raising=False)
        assert computed_dtypes(SERVER) == (torch.bfloat16, torch.float32)
        monkeypatch.setenv(VARIABLE, "float32")
        assert computed_dtypes(SERVER) == computed_dtypes(LAPTOP) == (torch.float32,)
        monkeypatch.setenv(VARIABLE, "float32, bfloat16")
        assert computed_dtypes(SERVER) == (torch.bfloat16, torch.float32)

    @pytest.mark.parametrize("given", ["bfloat16,float32", "int8", ""])
    def test_a_better_one_is_refused(self, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
        """And what isn't a dtype."""
        monkeypatch.setenv(VARIABLE, given)
        with pytest.raises(ConfigurationError, match=rf"{VARIABLE}={given}: .*It has float32:"):
            computed_dtypes(LAPTOP)

    def test_float32_is_always_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Models in float16 need it."""
        monkeypatch.setenv(VARIABLE, "bfloat16")
        with pytest.raises(ConfigurationError, match=r"computes in float32\. Name it too"):
            computed_dtypes(SERVER)

    def test_it_reaches_processes_that_are_started(self) -> None:
        """And what is compiled there."""
        code = (
            "import torch; from vllm_npu_runtime.device import find;"
            "can = find('openvino:CPU').capabilities;"
            "print(can.computes_in(torch.bfloat16), torch.bfloat16 in can.dtypes)"
        )
        env = {**os.environ, VARIABLE: "float32"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.stdout.split() == ["torch.float32", "True"], done.stderr

    def test_what_is_compiled_computes_in_float32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sums of a bfloat16 program keep what bfloat16 would round off; its KV too."""
        monkeypatch.setenv(VARIABLE, "float32")
        x = torch.ones(1, 4096, dtype=torch.bfloat16)
        w = torch.full((4096, 1), 1 + 2**-7, dtype=torch.bfloat16)
        program = make(lambda x, w: (x @ w).float() - 4096, x=x, w=w)
        executable = load(program, {"x": x})
        hint = executable.compiled.get_property("INFERENCE_PRECISION_HINT")
        assert hint.get_type_name() == "f32"
        assert float(executable.run()[0]) == 32.0
        block = KVBlock(2, 64, 32, torch.float32)
        assert DRIVER.kv_block_bytes("CPU", block, torch.bfloat16, {}) == block.plain_bytes
        with pytest.raises(ConfigurationError, match=r"bf16: with arithmetic in f32"):
            options = CompileOptions(kv_cache_dtype=torch.bfloat16)
            DRIVER.check("CPU", torch.bfloat16, options)


def test_closest() -> None:
    """Itself, else float32."""
    assert closest(torch.bfloat16, (torch.bfloat16, torch.float32)) is torch.bfloat16
    assert closest(torch.bfloat16, (torch.float32,)) is torch.float32


def test_rounding_without_effect_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO would take the option, and round nothing."""
    monkeypatch.setattr(processor, "rounds_activations", lambda: False)
    options = CompileOptions(driver={"dynamic_quantization": 32})
    with pytest.raises(ConfigurationError, match=r"'dynamic_quantization'.*32: it has no effect"):
        DRIVER.check("CPU", torch.float32, options)

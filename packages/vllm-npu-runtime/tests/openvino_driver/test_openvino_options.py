"""Options and devices of driver ``openvino``: typed, checked, and none ignored."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
import torch

pytest.importorskip("openvino")

from vllm_npu_runtime.drivers.base import CompileOptions
from vllm_npu_runtime.errors import BadShapeError, ConfigurationError
from vllm_npu_runtime.openvino import requirement
from vllm_npu_runtime.openvino.config import compile_config
from vllm_npu_runtime.openvino.options import OpenVINOOptions
from vllm_npu_runtime.program import Program

from .programs import DRIVER, load, make


@pytest.fixture(scope="module")
def program() -> Program:
    """x + 1."""
    return make(lambda x: x + 1, x=torch.randn(2, 2))


class TestOptions:
    """What a user may say."""

    def test_unknown_option_is_refused(self, program: Program) -> None:
        """Naming the nearest."""
        with pytest.raises(ConfigurationError, match="Did you mean 'threads'"):
            load(program, {}, thread=2)

    @pytest.mark.parametrize(
        ("name", "value"), [("threads", 0), ("threads", "2"), ("pinning", 1), ("precision", "f8")]
    )
    def test_wrong_value_is_refused(self, program: Program, name: str, value: object) -> None:
        """Naming the option and the value."""
        with pytest.raises(ConfigurationError, match=f"'{name}'.*{value!r}"):
            load(program, {}, **{name: value})

    def test_all_problems_are_told_at_once(self, program: Program) -> None:
        """One error lists them."""
        with pytest.raises(ConfigurationError, match=r"2 settings(.|\n)*thread(.|\n)*pinning"):
            load(program, {}, thread=2, pinning="no")

    @pytest.mark.parametrize("option", [{"turbo": True}, {"npuw": True}])
    def test_option_of_another_device_is_refused(
        self, program: Program, option: dict[str, object]
    ) -> None:
        """Rather than ignored."""
        with pytest.raises(ConfigurationError, match=f"{next(iter(option))}.*not for CPU"):
            load(program, {}, **option)

    def test_npuw_options_need_npuw(self) -> None:
        """They would do nothing without it."""
        options = OpenVINOOptions.of({"npuw_devices": "CPU"})
        with pytest.raises(ConfigurationError, match=r"npuw_devices.*need 'npuw'"):
            compile_config("NPU", options, torch.float16, None)

    def test_npu_options_become_properties(self) -> None:
        """Booleans as OpenVINO writes them."""
        options = OpenVINOOptions.of({"npuw": True, "npuw_devices": "CPU", "turbo": True})
        config = compile_config("NPU", options, torch.float16, None)
        assert config == {"NPU_TURBO": "YES", "NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU"}

    def test_half_precision_on_cpu_is_refused(self, program: Program) -> None:
        """PagedAttention is wrong in it; models in float16 compute in float32."""
        with pytest.raises(ConfigurationError, match="'precision'"):
            load(program, {}, precision="f16")
        config = compile_config("CPU", OpenVINOOptions(), torch.float16, None)
        assert config["INFERENCE_PRECISION_HINT"] == "f32"
        assert config["KV_CACHE_PRECISION"] == "f16"

    def test_kv_dtype_that_the_arithmetic_forbids_is_refused(self) -> None:
        """Naming those that it allows."""
        with pytest.raises(ConfigurationError, match=r"bf16.*in f32.*f32, f16, u8, u4"):
            compile_config("CPU", OpenVINOOptions(), torch.float32, torch.bfloat16)


class TestDevices:
    """What is there."""

    def test_cpu_is_found_and_is_no_npu(self) -> None:
        """`auto` must not pick it."""
        found = {info.name: info for info in DRIVER.devices()}
        assert not found["CPU"].is_npu

    def test_unknown_device_is_refused(self) -> None:
        """Naming those that are there."""
        with pytest.raises(ConfigurationError, match=r"'openvino:CPO'.*openvino:CPU"):
            DRIVER.capabilities("CPO")

    def test_npu_takes_static_shapes_only(self) -> None:
        """Refused before OpenVINO is asked."""
        program = make(lambda x: x + 1, most=64, x=torch.randn(8, 2))
        with pytest.raises(BadShapeError, match="static shapes only"):
            DRIVER.compile(program, "NPU", CompileOptions())


class TestRequirement:
    """OpenVINO is an extra."""

    @pytest.fixture(autouse=True)
    def _asked_anew(self) -> object:
        requirement.require.cache_clear()
        yield
        requirement.require.cache_clear()

    def test_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The message says what to install."""

        def missing(_name: str) -> str:
            raise PackageNotFoundError

        monkeypatch.setattr(requirement, "version", missing)
        with pytest.raises(ConfigurationError, match=r"pip install 'vllm-npu-runtime\[openvino\]'"):
            DRIVER.devices()

    @pytest.mark.parametrize("version", ["2025.3.0", "2026.3.1"])
    def test_too_old(self, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        """The message names both versions, and what to install."""
        monkeypatch.setattr(requirement, "version", lambda _name: version)
        with pytest.raises(ConfigurationError, match=rf"2026\.4.*{version}.*\[openvino\]"):
            DRIVER.capabilities("CPU")

    def test_version_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A build from source may call itself anything."""
        monkeypatch.setattr(requirement, "version", lambda _name: "custom build")
        with pytest.raises(ConfigurationError, match="custom build"):
            DRIVER.version()

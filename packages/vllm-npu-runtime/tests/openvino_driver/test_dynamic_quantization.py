"""Option `dynamic_quantization`: runs of few tokens round activations to eight bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("openvino")

from vllm_npu_runtime.drivers.base import CompileOptions, KVBlock
from vllm_npu_runtime.errors import BadShapeError, ConfigurationError
from vllm_npu_runtime.openvino import devices, processor, token_dispatch
from vllm_npu_runtime.openvino.config import compile_config
from vllm_npu_runtime.openvino.devices import core
from vllm_npu_runtime.openvino.kv_cache import probe
from vllm_npu_runtime.openvino.options import OpenVINOOptions
from vllm_npu_runtime.openvino.token_dispatch import FEW_TOKENS, TokenDispatch
from vllm_npu_runtime.ops.packing import dequantize
from vllm_npu_runtime.program import Program

from .packed import INPUTS, OUTPUTS, packed_product, packed_weights
from .programs import DRIVER, HAS_BFLOAT16, load, make

REALLY_ROUNDS = processor.rounds_activations
MOST = 64
X = torch.randn(MOST, INPUTS)


@pytest.fixture(autouse=True)
def _accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the rounding itself is the same on a processor that doesn't round."""
    monkeypatch.setattr(processor, "rounds_activations", lambda: True)


@pytest.fixture
def _with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that computes in bfloat16, for what nothing is compiled for."""
    changed = {
        "CPU": {**devices._properties()["CPU"], "OPTIMIZATION_CAPABILITIES": ["FP32", "BF16"]}
    }
    monkeypatch.setattr(devices, "_properties", lambda now=False: changed)


def _program(
    weights: dict[str, torch.Tensor],
    bits: int = 8,
    x: torch.Tensor = X,
    most: int | None = MOST,
) -> Program:
    return make(lambda x, **w: packed_product(x, bits, **w), most=most, x=x, **weights)


def _run(executable: object, x: torch.Tensor) -> torch.Tensor:
    executable.bind({"x": x})
    return executable.run()[0].clone()


def _bound(
    x: torch.Tensor, weights: dict[str, torch.Tensor], bits: int, group: int
) -> torch.Tensor:
    """Most that rounding changes each output.

    A group's scale takes its largest activation to 127, so each activation is off by half a
    scale at most; errors of all inputs add up, weighted.
    """
    dense = dequantize(weights["w"], weights["w_scale"], weights.get("w_zero"), bits).float()
    largest = x.float().unflatten(-1, (-1, group)).abs().amax(-1)
    return (largest / 254).repeat_interleave(group, -1) @ dense.abs().t()


@pytest.mark.parametrize("count", [1, 7, FEW_TOKENS])
@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize(("bits", "group", "rounded"), [(8, -1, 32), (4, 64, 32), (4, 128, 128)])
def test_few_tokens_are_rounded(
    bits: int, group: int, rounded: int, zero_point: bool, count: int
) -> None:
    """By as much as eight bits for each group, and no more."""
    if not REALLY_ROUNDS():
        pytest.skip("this processor's kernels don't round activations, so the option is refused")
    weights = packed_weights(bits, group, zero_point)
    program = _program(weights, bits)
    exact = _run(load(program, {}), X[:count])
    found = _run(load(program, {}, dynamic_quantization=rounded), X[:count])
    error = (found - exact).abs()
    assert bool((error <= _bound(X[:count], weights, bits, rounded) * 1.001 + 1e-6).all())
    # A mean of errors that are evenly spread would be about this far below the bound.
    assert 1e-3 < error.norm() / exact.norm() < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_many_tokens_are_as_without_the_option(dtype: torch.dtype) -> None:
    """Bit by bit, before and after runs of few, whose outputs differ if anything is rounded."""
    differs = REALLY_ROUNDS() or (dtype is torch.bfloat16 and HAS_BFLOAT16)
    x, weights = X.to(dtype), packed_weights(8, -1, dtype=dtype)
    program = _program(weights, x=x)
    plain, executable = load(program, {}), load(program, {}, dynamic_quantization=32)
    assert isinstance(executable, TokenDispatch)
    for count in (MOST, 3, FEW_TOKENS + 1, FEW_TOKENS, MOST):
        same = torch.equal(_run(executable, x[:count]), _run(plain, x[:count]))
        assert same is (count > FEW_TOKENS or not differs)


def test_arithmetic_of_both() -> None:
    """Few tokens of a bfloat16 model are computed in float32, others as ever."""
    executable = load(
        _program(packed_weights(8, -1, dtype=torch.bfloat16), x=X.bfloat16()),
        {},
        dynamic_quantization=32,
    )
    given = [
        [each.compiled.get_property(name) for each in (executable.few, executable.many)]
        for name in ("INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
    ]
    assert [[str(value) for value in pair] for pair in given] == [
        ["<Type: 'float32'>", f"<Type: '{'bfloat16' if HAS_BFLOAT16 else 'float32'}'>"],
        ["32", "0"],
    ]


def test_tokens_are_found_among_other_extents() -> None:
    """An input that varies, too, and comes first, isn't taken for the tokens."""
    weights = packed_weights(8, -1)
    offsets = torch.randn(MOST, OUTPUTS)
    program = make(
        lambda a, x, **w: a.sum() + packed_product(x.sin(), 8, **w),
        most=MOST,
        a=offsets,
        x=X,
        **weights,
    )
    assert program.inputs[0].name == "a"
    plain, executable = load(program, {}), load(program, {}, dynamic_quantization=32)
    assert executable._tokens.name == "x"
    for many, few in (("x", "a"), ("a", "x")):
        tensors = {"a": offsets, "x": X}
        tensors[few] = tensors[few][:4]
        outs = []
        for each in (plain, executable):
            each.bind(tensors)
            outs.append(each.run()[0].clone())
        assert executable._chosen is (executable.many if many == "x" else executable.few)
        assert torch.equal(*outs) is (many == "x" or not REALLY_ROUNDS())


def test_other_programs_are_compiled_once() -> None:
    """Without packed weights there is nothing to round, and fixed rows are few or many."""
    dense = make(lambda x, w: x @ w, most=MOST, x=X, w=torch.randn(INPUTS, OUTPUTS))
    assert not isinstance(load(dense, {}, dynamic_quantization=32), TokenDispatch)
    weights = packed_weights(8, -1)
    for count in (FEW_TOKENS, FEW_TOKENS + 1):
        x = X[:count]
        program = _program(weights, x=x, most=None)
        executable = load(program, {}, dynamic_quantization=32)
        assert not isinstance(executable, TokenDispatch)
        same = torch.equal(_run(executable, x), _run(load(program, {}), x))
        assert same is (count > FEW_TOKENS or not REALLY_ROUNDS())


@pytest.mark.parametrize("bits", [4, 8])
def test_saved_and_loaded(bits: int, tmp_path: Path) -> None:
    """One graph on disk serves both, with the weights that the program has."""
    weights = packed_weights(bits, 64, zero_point=True)
    program = _program(weights, bits)
    saved = load(program, {}, dynamic_quantization=32)
    assert DRIVER.save(saved, tmp_path)
    options = CompileOptions(driver={"dynamic_quantization": 32})
    loaded = DRIVER.load(program, "CPU", tmp_path, options)
    assert isinstance(loaded, TokenDispatch)
    for count in (MOST, FEW_TOKENS):
        assert torch.equal(_run(loaded, X[:count]), _run(saved, X[:count]))


def test_reloaded_weights_are_used_by_both() -> None:
    """Whichever runs first."""
    first, second = packed_weights(8, -1), packed_weights(8, -1)
    executable = load(_program(first), {}, dynamic_quantization=32)
    fresh = load(_program(second), {}, dynamic_quantization=32)
    _run(executable, X)
    executable.bind(second)
    for count in (4, MOST):
        assert torch.equal(_run(executable, X[:count]), _run(fresh, X[:count]))


def test_memory_and_close() -> None:
    """Both are freed; a wrong input is refused by both alike."""
    executable = load(_program(packed_weights(8, -1)), {"x": X}, dynamic_quantization=32)
    assert executable.memory == 0  # outputs of varying shape are the request's own
    assert executable.host_operators == ()
    with pytest.raises(BadShapeError, match="no input 'y'"):
        executable.bind({"y": X})
    executable.close()
    assert executable.few.compiled is None
    assert executable.many.compiled is None


class TestRefused:
    """What can't be honoured, and how to mend it."""

    @pytest.mark.parametrize("value", [0, 16, 256, "32", True])
    def test_other_groups(self, value: object) -> None:
        """Naming those that there are."""
        with pytest.raises(ConfigurationError, match=rf"'dynamic_quantization'.*{value!r}.*32, 64"):
            OpenVINOOptions.of({"dynamic_quantization": value})

    @pytest.mark.parametrize("device", ["NPU", "GPU", "GPU.1"])
    def test_other_devices(self, device: str) -> None:
        """The CPU alone takes the option."""
        options = OpenVINOOptions.of({"dynamic_quantization": 32})
        with pytest.raises(ConfigurationError, match=r"dynamic_quantization.*not for [NG]PU"):
            compile_config(device, options, torch.float16, None)

    def test_kept_blobs(self) -> None:
        """There would be two."""
        options = OpenVINOOptions.of({"dynamic_quantization": 32, "keep_blob": True})
        with pytest.raises(ConfigurationError, match=r"'keep_blob'.*exclude each other"):
            compile_config("CPU", options, torch.float32, None)

    @pytest.mark.usefixtures("_with_bfloat16")
    @pytest.mark.parametrize("kv", [torch.bfloat16, torch.float32])
    def test_kv_dtype_that_one_arithmetic_forbids(self, kv: torch.dtype) -> None:
        """Before a model is loaded; the error says what to set."""
        options = CompileOptions(kv_cache_dtype=kv, driver={"dynamic_quantization": 32})
        words = r"bf16 and f32.*both: u8, u4\. Set kv_cache_dtype to 'uint8'"
        with pytest.raises(ConfigurationError, match=words):
            DRIVER.check("CPU", torch.bfloat16, options)

    def test_groups_longer_than_the_weights(self) -> None:
        """The plugin would leave activations as they are, without a word."""
        program = _program(packed_weights(4, 64), 4)
        load(program, {}, dynamic_quantization=64)
        with pytest.raises(ConfigurationError, match=r"is 128: weight 'w'.*64 inputs.*32 or 64\."):
            load(program, {}, dynamic_quantization=128)


@pytest.mark.usefixtures("_with_bfloat16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kv_dtype_that_nobody_asked_for(dtype: torch.dtype) -> None:
    """The model's where both arithmetics allow it, else the best that both do."""
    options = OpenVINOOptions.of({"dynamic_quantization": 32})
    wanted = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "u8"}[dtype]
    for rounded in (False, True):
        config = compile_config("CPU", options, dtype, None, rounded)
        assert config["KV_CACHE_PRECISION"] == wanted


def test_caches_of_both_are_alike() -> None:
    """For quantized KV they are; what would differ is refused."""
    model = probe(KVBlock(2, 64, 32, torch.uint8))
    for parameter in model.get_parameters():  # as `convert` names them
        parameter.set_friendly_name(parameter.get_output_tensor(0).get_any_name())
    options = OpenVINOOptions.of({"dynamic_quantization": 32})
    few, many, other = (
        core().compile_model(model, "CPU", compile_config("CPU", options, torch.bfloat16, kv, each))
        for kv, each in ((torch.uint8, True), (torch.uint8, False), (torch.uint4, False))
    )
    token_dispatch._check_caches(few, many)
    with pytest.raises(ConfigurationError, match=r"keys:.*u8 .*few tokens.*u4 .*kv_cache_dtype"):
        token_dispatch._check_caches(few, other)


def test_a_processor_is_asked_by_a_product() -> None:
    """The answer is that of the kernels: products of eight-bit weights differ, or they don't."""
    weights = packed_weights(8, -1)
    found = [
        _run(load(_program(weights), {}, **options), X[:1])
        for options in ({}, {"dynamic_quantization": 32})
    ]
    assert REALLY_ROUNDS() is not torch.equal(*found)

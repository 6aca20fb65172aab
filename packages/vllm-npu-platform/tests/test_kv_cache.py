"""The KV cache: its dtype, and how many bytes vLLM sets aside for a block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from vllm.config import ModelConfig, VllmConfig
from vllm.v1.kv_cache_interface import (
    AttentionSpec,
    FullAttentionSpec,
    KVCacheSpec,
    MambaSpec,
    SlidingWindowSpec,
)

from vllm_npu_platform.checks.config import check_config
from vllm_npu_platform.kv_cache import block_parts, is_opaque, kv_cache_specs, kv_dtype
from vllm_npu_platform.target import Target
from vllm_npu_runtime import device
from vllm_npu_runtime.drivers.base import KVBlock
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import Settings

MakeTarget = Callable[..., Target]
PLAIN, OPAQUE = {"kv_layout": "NHC"}, {"kv_layout": "opaque"}
LAYOUTS = [PLAIN, OPAQUE]
UINT4: torch.dtype = torch.uint4  # type: ignore[attr-defined]
KEPT = (torch.float32, UINT4)
# A device that computes models of 16 bits in float32.
WIDE = {
    "kv_cache_dtypes": (torch.float32, torch.float16),
    "arithmetic": {torch.float16: torch.float32, torch.bfloat16: torch.float32},
}
HEADS, SIZE, BLOCK = 2, 64, 32
PLAIN_BYTES = 2 * HEADS * SIZE * BLOCK * 4
SPECS: dict[str, KVCacheSpec] = {
    "full": FullAttentionSpec(
        num_kv_heads=HEADS, head_size=SIZE, block_size=BLOCK, dtype=torch.float32
    ),
    "window": SlidingWindowSpec(
        num_kv_heads=HEADS, head_size=SIZE, block_size=BLOCK, dtype=torch.float32, sliding_window=48
    ),
    "state": MambaSpec(block_size=BLOCK, shapes=((4, 8),), dtypes=(torch.float32,)),
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> VllmConfig:
    """A whole configuration, as checks look at all of it."""
    directory: Path = tmp_path_factory.mktemp("llama")
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(directory)
    model = ModelConfig(str(directory), skip_tokenizer_init=True, dtype="float32")
    return VllmConfig(model_config=model)


def bytes_of(specs: dict[str, KVCacheSpec]) -> dict[str, int]:
    return {name: spec.page_size_bytes for name, spec in specs.items()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    ("option", "setting", "dtype"),
    [
        ("auto", "auto", torch.float32),
        ("float16", "auto", torch.float16),
        ("bfloat16", "auto", torch.bfloat16),
        ("auto", "float16", torch.float16),
        ("auto", "uint8", torch.uint8),
        ("auto", "uint4", UINT4),
    ],
)
def test_the_dtype_is_the_options_or_the_settings_and_else_the_models(
    layout: dict[str, Any],
    option: str,
    setting: str,
    dtype: torch.dtype,
    config: Any,
    make_target: MakeTarget,
) -> None:
    config.cache_config.cache_dtype = option
    assert kv_dtype(config, make_target(layout, kv_cache_dtype=setting)) is dtype


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),  # computed in float32, and kept
        (torch.bfloat16, torch.float32),  # computed in float32, and not kept
    ],
)
def test_nothing_is_rounded_on_its_way_through_a_cache_that_nobody_chose(
    layout: dict[str, Any],
    model: torch.dtype,
    dtype: torch.dtype,
    config: Any,
    make_target: MakeTarget,
) -> None:
    config.model_config.dtype = model
    target = make_target({**layout, **WIDE})
    assert kv_dtype(config, target) is dtype


@pytest.mark.parametrize(
    ("layout", "allowed"), [(PLAIN, "float32, float16, bfloat16"), (OPAQUE, "float32, float16")]
)
def test_the_host_keeps_a_models_dtype_that_is_computed_in_another(
    layout: dict[str, Any],
    allowed: str,
    checked: VllmConfig,
    make_target: MakeTarget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checked.model_config, "dtype", torch.bfloat16)
    target = make_target({**layout, **WIDE})
    check_config(checked, target)
    monkeypatch.setattr(checked.cache_config, "cache_dtype", "bfloat16")
    if layout is PLAIN:
        check_config(checked, target)
        monkeypatch.setattr(checked.cache_config, "cache_dtype", "fp8")
    with pytest.raises(ConfigurationError) as error:
        check_config(checked, target)
    assert f"paper keeps KV in {allowed}. Choose one; 'auto' takes float32." in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_option_and_setting_at_once_are_refused(
    layout: dict[str, Any], config: Any, make_target: MakeTarget
) -> None:
    config.cache_config.cache_dtype = "bfloat16"
    with pytest.raises(ConfigurationError) as error:
        kv_dtype(config, make_target(layout, kv_cache_dtype="uint8"))
    assert "--kv-cache-dtype bfloat16" in str(error.value)
    assert "kv_cache_dtype 'uint8'" in str(error.value)
    assert "Leave one out" in str(error.value)


# What each layout may keep of `KEPT`: the host writes a plain cache, and it can't quantize.
ALLOWED = [(PLAIN, "float32"), (OPAQUE, "float32, uint4")]


@pytest.mark.parametrize(("layout", "allowed"), ALLOWED)
def test_an_option_that_the_device_lacks_is_refused(
    layout: dict[str, Any],
    allowed: str,
    checked: VllmConfig,
    make_target: MakeTarget,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checked.cache_config, "cache_dtype", "float16")
    with pytest.raises(ConfigurationError) as error:
        check_config(checked, make_target({**layout, "kv_cache_dtypes": KEPT}))
    assert str(error.value) == (
        f"--kv-cache-dtype float16: paper keeps KV in {allowed}. "
        "Choose one; 'auto' takes the model's dtype, float32."
    )


@pytest.mark.parametrize(("layout", "allowed"), ALLOWED)
def test_a_setting_that_the_device_lacks_is_refused(
    layout: dict[str, Any], allowed: str, checked: VllmConfig, make_target: MakeTarget
) -> None:
    target = make_target({**layout, "kv_cache_dtypes": KEPT}, kv_cache_dtype="uint8")
    with pytest.raises(ConfigurationError) as error:
        check_config(checked, target)
    assert str(error.value).startswith(f"kv_cache_dtype 'uint8': paper keeps KV in {allowed}.")


def test_a_quantized_dtype_passes_where_the_device_has_it(
    checked: VllmConfig, make_target: MakeTarget
) -> None:
    check_config(checked, make_target({**OPAQUE, "kv_cache_dtypes": KEPT}, kv_cache_dtype="uint4"))


def test_a_quantized_dtype_is_refused_where_the_host_writes_the_cache(
    checked: VllmConfig, make_target: MakeTarget
) -> None:
    target = make_target(
        {**OPAQUE, "kv_cache_dtypes": KEPT}, kv_cache_dtype="uint4", kv_contract="gather"
    )
    with pytest.raises(ConfigurationError, match="'uint4': paper keeps KV in float32"):
        check_config(checked, target)


def test_a_plain_cache_is_as_vllm_specifies_it(config: Any, make_target: MakeTarget) -> None:
    target = make_target(PLAIN)
    assert not is_opaque(config, target)
    assert kv_cache_specs(SPECS, config, target) == SPECS


def test_a_plain_cache_takes_the_settings_dtype(config: Any, make_target: MakeTarget) -> None:
    specs = kv_cache_specs(SPECS, config, make_target(PLAIN, kv_cache_dtype="bfloat16"))
    kept = {spec.dtype for spec in specs.values() if isinstance(spec, AttentionSpec)}
    assert kept == {torch.bfloat16}


def test_a_gathered_cache_is_plain_on_any_device(config: Any, make_target: MakeTarget) -> None:
    target = make_target(OPAQUE, kv_contract="gather")
    assert not is_opaque(config, target)
    assert kv_cache_specs(SPECS, config, target) == SPECS


def test_an_opaque_cache_has_as_many_bytes_as_the_driver_says(
    config: Any, make_target: MakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded up to whole bytes per token; the driver is told what a block holds."""
    target, asked = make_target(OPAQUE, kv_cache_dtype="uint8"), []

    def kv_block_bytes(name: str, block: KVBlock, dtype: torch.dtype, options: object) -> int:
        asked.append((name, block, dtype, options))
        return 100 * BLOCK + 1

    monkeypatch.setattr(target.device.driver, "kv_block_bytes", kv_block_bytes)
    found = bytes_of(kv_cache_specs(SPECS, config, target))
    assert found["full"] == found["window"] == 101 * BLOCK
    assert asked == [("", KVBlock(HEADS, SIZE, BLOCK, torch.uint8), torch.float32, {})] * 2


def test_a_plain_block_has_one_part(config: Any, make_target: MakeTarget) -> None:
    target = make_target(PLAIN)
    spec: Any = kv_cache_specs(SPECS, config, target)["full"]
    assert block_parts(spec, config, target) == (PLAIN_BYTES,)


def test_an_opaque_block_has_the_parts_that_the_driver_says(
    config: Any, make_target: MakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked about the block as it was before vLLM saw bytes."""
    target, asked = make_target(OPAQUE, kv_cache_dtype="uint8"), []

    def kv_block_parts(*given: object) -> tuple[int, ...]:
        asked.append(given)
        return 60, 40

    monkeypatch.setattr(target.device.driver, "kv_block_parts", kv_block_parts)
    spec: Any = kv_cache_specs(SPECS, config, target)["window"]
    assert block_parts(spec, config, target) == (60, 40)
    assert asked == [("", KVBlock(HEADS, SIZE, BLOCK, torch.uint8), torch.float32, {})]


def test_an_opaque_cache_is_otherwise_vllms(config: Any, make_target: MakeTarget) -> None:
    """vLLM groups layers by their kind and window, and counts blocks by their tokens."""
    found = kv_cache_specs(SPECS, config, make_target(OPAQUE))
    assert list(found) == list(SPECS)
    assert found["state"] is SPECS["state"]
    for name in ("full", "window"):
        spec: Any = found[name]
        assert type(spec) is type(SPECS[name])
        assert spec.dtype is torch.uint8
        assert (spec.block_size, spec.num_kv_heads, spec.head_size) == (BLOCK, HEADS, SIZE)
        assert spec.page_size_bytes == PLAIN_BYTES
    window: Any = found["window"]
    assert window.sliding_window == 48


def test_openvino_keeps_scales_beside_quantized_numbers(config: Any) -> None:
    pytest.importorskip("openvino")

    def pages(dtype: str) -> dict[str, int]:
        target = Target(Settings(kv_cache_dtype=dtype), device.find("openvino:CPU"))
        return bytes_of(kv_cache_specs(SPECS, config, target))

    assert pages("float32")["full"] == PLAIN_BYTES
    assert PLAIN_BYTES / 4 < pages("uint8")["full"] < PLAIN_BYTES / 2
    assert PLAIN_BYTES / 8 < pages("uint4")["full"] < pages("uint8")["full"]

"""What is wrong with a checkpoint's files is told before anything is loaded, all at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vllm_npu_quantization.checkpoint import findings
from vllm_npu_quantization.configs.awq import NPUAWQConfig
from vllm_npu_quantization.configs.compressed_tensors import NPUCompressedTensorsConfig
from vllm_npu_quantization.configs.gptq import NPUGPTQConfig
from vllm_npu_runtime.errors import ConfigurationError

from . import layers
from .layers import CONFIGS, GROUP, INPUTS, OUTPUTS, Tensors, checkpoint

CLASSES: dict[str, Any] = {
    "gptq": NPUGPTQConfig,
    "awq": NPUAWQConfig,
    "compressed-tensors": NPUCompressedTensorsConfig,
}
MAKE: dict[str, Callable[[], Tensors]] = {
    "gptq": layers.gptq,
    "awq": layers.awq,
    "compressed-tensors": layers.packed,
}
SCALES = {"gptq": "scales", "awq": "scales", "compressed-tensors": "weight_scale"}
WEIGHTS = {"gptq": "qweight", "awq": "qweight", "compressed-tensors": "weight_packed"}


def check(method: str, directory: Path, **entries: Any) -> None:
    """What vLLM calls before it makes a model."""
    config = copy.deepcopy(CONFIGS[method]) | entries
    CLASSES[method].from_config(config).maybe_update_config(str(directory))


def problem(method: str, directory: Path, **entries: Any) -> str:
    """The error's text."""
    with pytest.raises(ConfigurationError) as caught:
        check(method, directory, **entries)
    return str(caught.value)


@pytest.fixture(params=CLASSES)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_whole_checkpoint_passes(method: str, tmp_path: Path) -> None:
    check(method, checkpoint(tmp_path, one=MAKE[method](), two=MAKE[method]()))


def test_int_quantized_and_asymmetric_pass(tmp_path: Path) -> None:
    for number, (tensors, weights, form) in enumerate(
        (
            (layers.int8(), {"num_bits": 8}, "int-quantized"),
            (layers.packed(False), {"symmetric": False}, "pack-quantized"),
        )
    ):
        directory = tmp_path / str(number)
        directory.mkdir()
        groups = copy.deepcopy(CONFIGS["compressed-tensors"]["config_groups"])
        groups["group_0"]["weights"] |= weights
        layer = checkpoint(directory, one=tensors)
        check("compressed-tensors", layer, config_groups=groups, format=form)


def test_missing_scales(method: str, tmp_path: Path) -> None:
    """Every layer that lacks them is named."""
    tensors = {name: MAKE[method]() for name in ("one", "two", "three")}
    del tensors["one"][SCALES[method]], tensors["three"][SCALES[method]]
    text = problem(method, checkpoint(tmp_path, **tensors))
    assert "layer 'one'" in text
    assert "layer 'three'" in text
    assert "'two'" not in text
    assert f"'{SCALES[method]}' is missing" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers(method: str, tmp_path: Path, value: float) -> None:
    tensors = MAKE[method]()
    tensors[SCALES[method]][1, 1] = value
    assert "holds NaN or infinity" in problem(method, checkpoint(tmp_path, one=tensors))


def test_wrong_dtypes(method: str, tmp_path: Path) -> None:
    """Of weights in one layer, of scales in another."""
    one, two = MAKE[method](), MAKE[method]()
    one[WEIGHTS[method]] = one[WEIGHTS[method]].long()
    two[SCALES[method]] = two[SCALES[method]].int()
    text = problem(method, checkpoint(tmp_path, one=one, two=two))
    assert f"'{WEIGHTS[method]}' is I64; it must be I32" in text
    assert f"'{SCALES[method]}' is I32; it must be F16 or BF16 or F32" in text


def test_group_size_of_another_config(method: str, tmp_path: Path) -> None:
    """The scales are too many for it."""
    directory = checkpoint(tmp_path, one=MAKE[method]())
    entries: dict[str, Any] = {"group_size": 64}
    if method == "compressed-tensors":
        groups = copy.deepcopy(CONFIGS[method]["config_groups"])
        groups["group_0"]["weights"]["group_size"] = 64
        entries = {"config_groups": groups}
    text = problem(method, directory, **entries)
    assert "by the config and the weights it must be" in text
    assert "Take the config that came with these weights" in text


def test_group_size_that_does_not_divide(method: str, tmp_path: Path) -> None:
    directory = checkpoint(tmp_path, one=MAKE[method]())
    entries: dict[str, Any] = {"group_size": 128}
    if method == "compressed-tensors":
        groups = copy.deepcopy(CONFIGS[method]["config_groups"])
        groups["group_0"]["weights"]["group_size"] = 128
        entries = {"config_groups": groups}
    text = problem(method, directory, **entries)
    assert f"{INPUTS} inputs are no multiple of the group size 128" in text


def test_truncated_file(method: str, tmp_path: Path) -> None:
    file = checkpoint(tmp_path, one=MAKE[method]()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "model.safetensors' is damaged" in problem(method, tmp_path)


def test_nothing_quantized(method: str, tmp_path: Path) -> None:
    """The config came with other weights."""
    plain = {"weight": torch.ones(OUTPUTS, INPUTS)}
    assert "though its config says" in problem(method, checkpoint(tmp_path, one=plain))


def test_gptq_of_other_bits(tmp_path: Path) -> None:
    """8-bit weights under a config of 4 bits."""
    text = problem("gptq", checkpoint(tmp_path, one=layers.gptq(bits=8)))
    assert "'g_idx'" in text


def test_gptq_zero_points(tmp_path: Path) -> None:
    tensors = layers.gptq()
    tensors["qzeros"][0, 0] += 1
    text = problem("gptq", checkpoint(tmp_path, one=tensors))
    assert "'qzeros' are not all 7" in text
    assert "asymmetric weights are not supported" in text


def test_gptq_zero_points_of_the_second_version(tmp_path: Path) -> None:
    """There they are what they are."""
    tensors = layers.gptq()
    tensors["qzeros"] = layers.words(torch.full((INPUTS // GROUP, OUTPUTS), 8), 4)
    directory = checkpoint(tmp_path, one=tensors)
    check("gptq", directory, checkpoint_format="gptq_v2")
    assert "are not all 7" in problem("gptq", directory)


def test_gptq_reordering(tmp_path: Path) -> None:
    tensors = layers.gptq()
    tensors["g_idx"] = tensors["g_idx"].flip(0)
    text = problem("gptq", checkpoint(tmp_path, one=tensors))
    assert "'g_idx' reorders the inputs" in text
    assert '"desc_act": false' in text


def test_shape_that_disagrees(tmp_path: Path) -> None:
    tensors = layers.packed()
    tensors["weight_shape"] = torch.tensor([OUTPUTS, INPUTS * 2])
    text = problem("compressed-tensors", checkpoint(tmp_path, one=tensors))
    assert "'weight_shape' says [16, 128]" in text


def test_asymmetric_without_zero_points(tmp_path: Path) -> None:
    groups = copy.deepcopy(CONFIGS["compressed-tensors"]["config_groups"])
    groups["group_0"]["weights"]["symmetric"] = False
    directory = checkpoint(tmp_path, one=layers.packed())
    text = problem("compressed-tensors", directory, config_groups=groups)
    assert "'weight_zero_point' is missing" in text


def test_model_that_has_yet_to_be_fetched_is_checked_when_loaded(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then all at once, for whichever layer comes first; copies of a config know it too."""
    config = CLASSES[method].from_config(copy.deepcopy(CONFIGS[method]))
    config.maybe_update_config("nobody/has-this-model")
    tensors = {"one": MAKE[method](), "two": MAKE[method]()}
    del tensors["one"][SCALES[method]], tensors["two"][SCALES[method]]
    directory = checkpoint(tmp_path, **tensors)
    monkeypatch.setattr(findings, "directory_of", lambda *_: directory)
    with pytest.raises(ConfigurationError, match=r"2 settings[\s\S]*'one'[\s\S]*'two'"):
        copy.deepcopy(config).pending.finish()
    config.pending.finish()


def test_files_that_have_yet_to_be_fetched(method: str, tmp_path: Path) -> None:
    """An index that names what isn't there: vLLM fetches it, or says so."""
    checkpoint(tmp_path, one=MAKE[method]())
    names = {"one.weight": "model.safetensors", "two.weight": "model-2.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    check(method, tmp_path)

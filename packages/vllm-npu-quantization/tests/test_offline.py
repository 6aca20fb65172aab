"""`vllm-npu quantize`: what it writes, read by transformers; what it reports and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from vllm_npu_quantization.offline.plan import make_plan
from vllm_npu_quantization.offline.writing import write
from vllm_npu_quantization.rounding import round_weight
from vllm_npu_runtime.cli.app import app
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.ops.packing import dequantize

TOKENS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in several files; 64 inputs in most layers, 256 in one of each block."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    directory = tmp_path_factory.mktemp("plain")
    LlamaForCausalLM(config).save_pretrained(directory, max_shard_size="150KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    return directory


def expected(plain: Path, bits: int, skipped: str = "lm_head") -> torch.Tensor:
    """Logits of the rounded weights, in transformers."""
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and skipped not in name:
            group = -1 if bits == 8 else 128 if module.in_features % 128 == 0 else 64
            rounded = round_weight(module.weight.data, bits, group)
            module.weight.data = dequantize(rounded.weight, rounded.scale, None, bits)
    with torch.inference_mode():
        logits: torch.Tensor = model(TOKENS).logits
    return logits


@pytest.mark.parametrize(("scheme", "bits"), [("w4a16", 4), ("w8a16", 8)])
def test_transformers_reads_it(plain: Path, tmp_path: Path, scheme: str, bits: int) -> None:
    """By compressed-tensors' own code, with the logits of the rounded weights."""
    seen: list[int] = []
    write(make_plan(plain, scheme, (), False), tmp_path / "out", seen.append)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.inference_mode():
        logits = model(TOKENS).logits
    torch.testing.assert_close(logits, expected(plain, bits), rtol=1e-4, atol=1e-4)
    assert sum(seen) == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 256)


def test_layers(plain: Path, tmp_path: Path) -> None:
    """Those with another group size are named; the head and what is skipped is ignored."""
    write(make_plan(plain, "w4a16", ("k_proj",), False), tmp_path / "out", lambda _: None)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    usual, other = config["config_groups"].values()
    assert (usual["targets"], usual["weights"]["group_size"]) == (["Linear"], 64)
    assert other["targets"] == [f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)]
    assert other["weights"]["group_size"] == 128
    skipped = [f"model.layers.{layer}.self_attn.k_proj" for layer in (0, 1)]
    assert config["ignore"] == ["lm_head", *skipped]


def test_index(plain: Path, tmp_path: Path) -> None:
    """Every tensor is where it says."""
    target = tmp_path / "out"
    write(make_plan(plain, "w8a16", (), True), target, lambda _: None)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    held = {name: file.name for file in target.glob("*.safetensors") for name in load_file(file)}
    assert index["weight_map"] == held
    assert "lm_head.weight_packed" in held
    tensors = [each for file in target.glob("*.safetensors") for each in load_file(file).values()]
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in tensors)


def test_report(plain: Path, tmp_path: Path) -> None:
    """A line for each layer, with its error."""
    done = CliRunner().invoke(app, ["quantize", str(plain), "-o", str(tmp_path / "out")])
    if "No such command" in done.output:
        pytest.skip("the distribution's entry points aren't installed")
    assert done.exit_code == 0, done.output
    row = next(line for line in done.output.splitlines() if "layers.1.mlp.down_proj" in line)
    _name, group, error, clipped = (each.strip(" %") for each in row.strip("│ ").split("│"))
    assert group == "128"
    assert 1 < float(error) < 20
    assert 0 <= float(clipped) < 5
    assert "the LM head" in done.output
    assert f"vllm serve {tmp_path / 'out'}" in done.output


def test_refusals(plain: Path, tmp_path: Path) -> None:
    """Each with what is wrong and the fix; nothing is left behind."""

    def refused(words: str, directory: Path = plain, scheme: str = "w4a16", **options: Any) -> None:
        with pytest.raises(ConfigurationError, match=words):
            plan = make_plan(directory, scheme, options.get("skip", ()), False)
            write(plan, options.get("target", tmp_path / "out"), lambda _: None)

    refused("Unknown scheme 'w4a8'", scheme="w4a8")
    refused("no linear layer", skip=("proj",))
    refused("--skip has 'qkv_proj', which no layer's name matches", skip=("qkv_proj",))
    refused("exists already", target=plain)
    refused("no config.json", directory=tmp_path)
    done = tmp_path / "done"
    write(make_plan(plain, "w8a16", (), False), done, lambda _: None)
    refused("quantized already", directory=done)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["done"]


def test_weights_that_are_no_numbers(plain: Path, tmp_path: Path) -> None:
    """The layer is named."""
    model = AutoModelForCausalLM.from_pretrained(plain)
    model.save_pretrained(tmp_path / "bad")
    (file,) = (tmp_path / "bad").glob("*.safetensors")
    weights = load_file(file)
    weights["model.layers.1.self_attn.o_proj.weight"][2, 3] = float("nan")
    save_file(weights, file, {"format": "pt"})
    plan = make_plan(tmp_path / "bad", "w4a16", (), False)
    with pytest.raises(ConfigurationError, match=r"'model.layers.1.self_attn.o_proj' has weights"):
        write(plan, tmp_path / "out", lambda _: None)
    assert not (tmp_path / "out").exists()

"""An artifact's config.json: the checkpoint's, with what vLLM needs to know."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Compile

WRAPPERS = {
    "llama": "NPULlamaForCausalLM",
    "hyperclovax": "NPULlamaForCausalLM",
    "exaone": "NPUExaoneForCausalLM",
    "exaone4": "NPUExaone4ForCausalLM",
    "qwen2": "NPUQwen2ForCausalLM",
    "qwen3": "NPUQwen3ForCausalLM",
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_it_names_the_wrapper(name: str, compiled: Compile) -> None:
    artifact = compiled(name)
    assert artifact.config()["architectures"] == [WRAPPERS[name]]
    assert artifact.manifest.architecture == WRAPPERS[name]


@pytest.mark.parametrize("name", [*WRAPPERS, "exaone4-global", "qwen2-windows", "llama-untied"])
def test_transformers_loads_it_without_code_from_the_checkpoint(
    name: str, compiled: Compile
) -> None:
    from transformers import AutoConfig

    artifact = compiled(name)
    config = AutoConfig.from_pretrained(artifact.directory, trust_remote_code=False)
    model = artifact.manifest.model
    assert (config.hidden_size, config.num_hidden_layers) == (model.hidden_size, model.layers)
    assert config.num_key_value_heads == model.kv_heads
    derived = config.hidden_size // config.num_attention_heads
    assert getattr(config, "head_dim", derived) == model.head_size
    assert "auto_map" not in artifact.config()


@pytest.mark.parametrize("name", ["llama", "exaone4", "qwen3"])
def test_it_keeps_the_checkpoints_fields(
    name: str, compiled: Compile, checkpoint: Callable[[str], Path]
) -> None:
    before = json.loads((checkpoint(name) / "config.json").read_text())
    after = compiled(name).config()
    del before["architectures"]
    assert {key: after.get(key) for key in before} == before


def test_exaone_3_becomes_a_llama(compiled: Compile) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(compiled("exaone").directory)
    assert config.model_type == "llama"
    assert config.num_hidden_layers == 2 and config.rms_norm_eps == 1e-6
    assert config.rope_parameters["rope_type"] == "llama3"
    assert config.rope_parameters["rope_theta"] == 10000.0


def test_it_says_what_it_was_compiled_for(compiled: Compile) -> None:
    options = {"max_batch_size": 3, "prefill_chunk_size": 32, "max_model_len": 100}
    artifact = compiled("llama", **options)
    config, limits = artifact.config(), artifact.manifest.limits
    assert (config["max_batch_size"], config["npu_prefill_chunk_size"]) == (3, 32)
    assert config["npu_block_size"] == limits.block_size
    assert config["dtype"] == "float32"
    assert (limits.max_batch_size, limits.prefill_chunk_size, limits.max_model_len) == (3, 32, 100)


def test_sizes_differ_by_core_mode(compiled: Compile) -> None:
    modes = {"single": 64, "global4": 256}
    artifact = compiled("llama", prefill_chunk_size=modes)
    assert artifact.config()["npu_prefill_chunk_size"] == modes
    assert artifact.manifest.limits.prefill_chunk_size == modes


def test_defaults(compiled: Compile) -> None:
    limits = compiled("llama").manifest.limits
    assert (limits.max_batch_size, limits.prefill_chunk_size, limits.max_model_len) == (8, 256, 256)


def test_the_npus_pipeline_holds_one_request(compiled: Compile) -> None:
    manifest = compiled("llama", device="openvino:NPU").manifest
    assert manifest.device == "openvino:NPU" and manifest.limits.max_batch_size == 1


def test_the_npus_pipeline_takes_a_prompt_whole(
    compiled: Compile, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs the whole prompt for every further chunk."""
    artifact = compiled("llama", device="openvino:NPU", max_model_len=100)
    assert artifact.manifest.limits.prefill_chunk_size == 100
    assert artifact.config()["npu_prefill_chunk_size"] == 100
    assert not caplog.records


@pytest.mark.parametrize("chunk", [30, {"single": 30, "global4": 120}])
def test_chunks_on_the_npus_pipeline_are_warned_of(
    compiled: Compile, caplog: pytest.LogCaptureFixture, chunk: int | dict[str, int]
) -> None:
    options = {"device": "openvino:NPU", "max_model_len": 101, "prefill_chunk_size": chunk}
    artifact = compiled("llama", **options)
    assert artifact.manifest.limits.prefill_chunk_size == chunk
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("vllm.npu", "WARNING")
    text = record.getMessage()
    assert "--prefill-chunk-size 30" in text and "101 tokens takes up to 4 runs" in text


def test_tokenizer_and_templates_are_copied(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from vllm_npu_runtime.export.compile import compile_artifact

    from .checkpoints import CHECKPOINTS

    source = tmp_path / "model"
    CHECKPOINTS["llama"](source)
    (source / "additional_chat_templates").mkdir()
    copied = {
        "tokenizer.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "additional_chat_templates/tool.jinja": "{{ tools }}",
    }
    for name, text in copied.items():
        (source / name).write_text(text)
    (source / "modeling_llama.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    artifact = compile_artifact(source, tmp_path / "out", dtype="float32")
    for name, text in copied.items():
        assert (artifact.directory / name).read_text() == text
        assert name in artifact.manifest.files
    assert "generation_config.json" in artifact.manifest.files
    assert not list(artifact.directory.glob("*.py")) + list(artifact.directory.glob("*.bin"))


def test_the_manifest_describes_the_graphs(compiled: Compile) -> None:
    graphs = compiled("llama").manifest.graphs
    decoder, head = graphs["decoder"], graphs["lm_head"]
    assert {port.name: (port.dtype, port.shape) for port in decoder.inputs} == {
        "inputs_embeds": ("f32", (-1, -1, 64)),
        "attention_mask": ("i64", (-1, -1)),
        "position_ids": ("i64", (-1, -1)),
        "beam_idx": ("i32", (-1,)),
    }
    assert [(port.name, port.shape) for port in decoder.outputs] == [
        ("last_hidden_state", (-1, -1, 64))
    ]
    assert [(port.name, port.shape) for port in (*head.inputs, *head.outputs)] == [
        ("hidden", (-1, 64)),
        ("logits", (-1, 112)),
    ]
